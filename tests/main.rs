//! The whole server, as clients and admins see it: every test starts the real binary.

mod accounts;
mod bad_input;
mod bodies;
mod build_needs;
mod command_line;
mod dehydrated_devices;
mod descriptors;
mod device_lists;
mod devices;
mod durability;
mod key_backup;
mod keys;
mod ledger;
mod media;
mod media_hostile;
mod messages;
mod moderation;
mod openid;
mod profiles;
mod rooms;
mod s3;
mod sdk;
mod sdk_encrypted;
mod support;
mod sync;
mod to_device;
