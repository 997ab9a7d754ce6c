//! The suite that every engine passes: each test is a function over a [`Backend`].

mod backend;
mod codec;
mod concurrent;
mod follow;
mod lifecycle;
mod log;
mod model;
mod projection;
mod retry;
mod values;

use backend::{Backend, Disk, Files};

/// Runs each function as a test on every engine.
macro_rules! on_every_engine {
    ($($module:ident::$name:ident),+ $(,)?) => {
        mod memory {
            $(
                #[test]
                fn $name() {
                    super::$module::$name(&<super::Disk<false> as super::Backend>::create());
                }
            )+
        }
        mod distant {
            $(
                #[test]
                fn $name() {
                    super::$module::$name(&<super::Disk<true> as super::Backend>::create());
                }
            )+
        }
        mod rocksdb {
            $(
                #[test]
                fn $name() {
                    super::$module::$name(&<super::Files as super::Backend>::create());
                }
            )+
        }
    };
}

on_every_engine!(
    model::agrees_with_a_model,
    concurrent::no_update_is_lost_and_no_view_is_torn,
    log::stored_records_are_read_then_live_ones,
    log::who_is_behind_the_tail_reads_from_the_disk,
    log::who_is_behind_a_trimmed_log_is_told,
    log::reading_ends_when_the_store_closes,
    log::cursor_moves_with_the_batch,
    follow::what_is_counted_is_counted_once_whatever_fails,
    follow::after_each_failure_it_waits_longer,
    follow::what_is_not_done_is_given_again,
    follow::what_cannot_be_used_is_made_anew,
    follow::a_cursor_is_moved_now_and_then_where_nothing_follows,
    follow::a_follower_ends_with_its_owner_and_with_the_store,
    follow::followers_are_listed_with_their_lag,
    projection::what_is_dropped_is_told_nothing_more,
    retry::who_was_slower_decides_again,
    retry::a_refusal_ends_at_once_and_an_empty_batch_writes_nothing,
    lifecycle::content_survives_and_positions_never_repeat,
    lifecycle::counters_never_repeat,
    lifecycle::identity_is_kept,
    lifecycle::restore_jumps_ahead_and_forgets,
    lifecycle::migrations_run_once_and_resume,
    lifecycle::newer_schema_is_refused,
    lifecycle::changed_tables_are_refused,
    lifecycle::closed_store_refuses_batches,
    values::all_forms_are_kept,
    values::large_scans_are_paged,
    values::pages_of_large_rows_go_on,
    values::bulk_work_reads_its_view_and_gives_what_it_made,
    values::values_without_content_are_there,
    values::refused_batches_write_nothing,
    values::pipelined_batches_see_each_other,
);
