//! The rules of users through the public interface, on a store in memory with a clock and randomness of the test's own.

mod account_data;
mod accounts;
mod dehydrated;
mod device_lists;
mod devices;
mod directory;
mod filters;
mod key_backup;
mod keys;
mod keys_cross_signing;
mod keys_one_time;
mod left_behind;
mod openid;
mod passwords;
mod presence;
mod profile;
mod projection;
mod push_rules;
mod registration_tokens;
mod to_device;
mod tokens;
mod world;
