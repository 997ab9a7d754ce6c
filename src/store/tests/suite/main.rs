//! The suite that every engine passes: each test is a function over a [`Backend`].

mod backend;
mod codec;
mod concurrent;
mod follow;
mod lifecycle;
mod model;
mod values;

use backend::{Backend, Disk, Files};

/// Runs each function as a test on every engine.
macro_rules! on_every_engine {
    ($($module:ident::$name:ident),+ $(,)?) => {
        mod memory {
            $(
                #[test]
                fn $name() {
                    super::$module::$name(&<super::Disk as super::Backend>::create());
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
    follow::follower_reads_stored_records_then_live_ones,
    follow::follower_behind_the_tail_reads_from_the_disk,
    follow::trimmed_log_sends_the_follower_to_rebuild,
    follow::follower_ends_when_the_store_closes,
    follow::cursor_moves_with_the_batch,
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
    values::values_without_content_are_there,
    values::refused_batches_write_nothing,
    values::pipelined_batches_see_each_other,
);
