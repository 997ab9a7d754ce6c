//! Every operation of the API with the class that it counts as.

use haima_http::{Class, Endpoint, Router, Routes};

use crate::{
    ClientApi, account_data, account_deactivation, banning, capabilities, content_repo, create_room,
    dehydrated_devices, device_management, directory, end_to_end_encryption, event_context, filter, inviting, joining,
    key_backup, keys_changes, kicking, knocking, leaving, list_joined_rooms, list_public_rooms, login, login_token,
    logout, members, message_pagination, mutual_rooms, openid, password_management, presence, profile, pushrules,
    read_markers, receipts, redaction, refresh, registration, registration_tokens, relations, room_event,
    room_event_by_timestamp, room_send, room_state, room_summary, room_upgrades, send_to_device, space_hierarchy,
    support, sync, tags, third_party_ids, third_party_lookup, threads_list, typing, user_directory, versions, voip,
    wellknown, whoami,
};

/// `GET` and `PUT` of state with an empty key, whose last part may be left out.
const STATE_WITHOUT_KEY: [&str; 4] = [
    "/_matrix/client/r0/rooms/{room_id}/state/{event_type}",
    "/_matrix/client/r0/rooms/{room_id}/state/{event_type}/",
    "/_matrix/client/v3/rooms/{room_id}/state/{event_type}",
    "/_matrix/client/v3/rooms/{room_id}/state/{event_type}/",
];

/// The router of the client-server API, and the list of its endpoints.
pub fn router(api: ClientApi) -> (Router, Vec<Endpoint>) {
    let gate = api.gate.clone();
    let routes = Routes::new(api, gate);
    let routes = key_backups(files(encryption(user_data(sessions(discovery(routes))))));
    room_reading(room_features(room_writing(memberships(routes)))).finish()
}

type ApiRoutes = Routes<ClientApi>;

fn discovery(routes: ApiRoutes) -> ApiRoutes {
    routes
        .on("health", Class::Free, versions::health)
        .on("getVersions", Class::Free, versions::get_versions)
        .on("getWellknown", Class::Free, wellknown::get_wellknown)
        .on("getWellKnown", Class::Free, wellknown::get_well_known)
        .on("getWellknownSupport", Class::Free, support::get_wellknown_support)
        .on("getCapabilities", Class::Read, capabilities::get_capabilities)
        .on("getProtocols", Class::Read, third_party_lookup::get_protocols)
        .on("getTurnServer", Class::Read, voip::get_turn_server)
        .on("requestOpenIdToken", Class::Write, openid::request_open_id_token)
}

fn sessions(routes: ApiRoutes) -> ApiRoutes {
    routes
        // Counts itself as registration, where it isn't asked again and again by a form that waits.
        .on("register", Class::Anonymous, registration::register)
        .on("checkUsernameAvailability", Class::Availability, registration::check_username_availability)
        .on("registrationTokenValidity", Class::Availability, registration_tokens::registration_token_validity)
        .on("getLoginFlows", Class::Free, login::get_login_flows)
        .on("login", Class::Login, login::login)
        .on("generateLoginToken", Class::Write, login_token::generate_login_token)
        .on("refresh", Class::Login, refresh::refresh)
        .on("logout", Class::Write, logout::logout)
        .on("logout_all", Class::Write, logout::logout_all)
        .on("getTokenOwner", Class::Read, whoami::get_token_owner)
        .on("getAccount3PIDs", Class::Read, third_party_ids::get_account_3pids)
        .on("deactivateAccount", Class::Write, account_deactivation::deactivate_account)
        .on("changePassword", Class::Write, password_management::change_password)
        .on("getDevices", Class::Read, device_management::get_devices)
        .on("getDevice", Class::Read, device_management::get_device)
        .on("updateDevice", Class::Write, device_management::update_device)
        .on("deleteDevice", Class::Write, device_management::delete_device)
        .on("deleteDevices", Class::Write, device_management::delete_devices)
}

fn user_data(routes: ApiRoutes) -> ApiRoutes {
    routes
        .on("sync", Class::Sync, sync::sync)
        .on("sendToDevice", Class::Write, send_to_device::send_to_device)
        .on("setProfileField", Class::Write, profile::set_profile_field)
        .on("getProfileField", Class::Read, profile::get_profile_field)
        .on("deleteProfileField", Class::Write, profile::delete_profile_field)
        .on("getUserProfile", Class::Read, profile::get_user_profile)
        .on("setPresence", Class::Write, presence::set_presence)
        .on("getPresence", Class::Read, presence::get_presence)
        .on("searchUserDirectory", Class::Search, user_directory::search_user_directory)
        .on("setAccountData", Class::Write, account_data::set_account_data)
        .on("getAccountData", Class::Read, account_data::get_account_data)
        .on("setAccountDataPerRoom", Class::Write, account_data::set_account_data_per_room)
        .on("getAccountDataPerRoom", Class::Read, account_data::get_account_data_per_room)
        .on("deleteAccountData", Class::Write, account_data::delete_account_data)
        .on("deleteAccountDataPerRoom", Class::Write, account_data::delete_account_data_per_room)
        .on("getRoomTags", Class::Read, tags::get_room_tags)
        .on("setRoomTag", Class::Write, tags::set_room_tag)
        .on("deleteRoomTag", Class::Write, tags::delete_room_tag)
        .on("defineFilter", Class::Write, filter::define_filter)
        .on("getFilter", Class::Read, filter::get_filter)
        .on("getPushRules", Class::Read, pushrules::get_push_rules)
        .on("getPushRulesGlobal", Class::Read, pushrules::get_push_rules_global)
        // Many clients leave out the slash.
        .at(&["/_matrix/client/v3/pushrules"], "getPushRules", Class::Read, pushrules::get_push_rules)
        .on("getPushRule", Class::Read, pushrules::get_push_rule)
        .on("setPushRule", Class::Write, pushrules::set_push_rule)
        .on("deletePushRule", Class::Write, pushrules::delete_push_rule)
        .on("isPushRuleEnabled", Class::Read, pushrules::is_push_rule_enabled)
        .on("setPushRuleEnabled", Class::Write, pushrules::set_push_rule_enabled)
        .on("getPushRuleActions", Class::Read, pushrules::get_push_rule_actions)
        .on("setPushRuleActions", Class::Write, pushrules::set_push_rule_actions)
}

fn files(routes: ApiRoutes) -> ApiRoutes {
    use content_repo as repo;
    routes
        .on_upload("uploadContent", Class::Upload, repo::upload_content)
        .on_upload("uploadContentToMXC", Class::Upload, repo::upload_content_to_mxc)
        .on("createContent", Class::Upload, repo::create_content)
        .on("getContentAuthed", Class::Read, repo::get_content_authed)
        .on("getContentOverrideNameAuthed", Class::Read, repo::get_content_override_name_authed)
        .on("getContentThumbnailAuthed", Class::Read, repo::get_content_thumbnail_authed)
        .on("getContentThumbnail", Class::Read, repo::get_content_thumbnail)
        .on("getUrlPreviewAuthed", Class::Preview, repo::get_url_preview_authed)
        .on("getUrlPreview", Class::Preview, repo::get_url_preview)
        .on("getConfigAuthed", Class::Read, repo::get_config_authed)
        .on("getContent", Class::Read, repo::get_content)
        .on("getContentOverrideName", Class::Read, repo::get_content_override_name)
        .on("getConfig", Class::Read, repo::get_config)
}

fn key_backups(routes: ApiRoutes) -> ApiRoutes {
    routes
        .on("postRoomKeysVersion", Class::Write, key_backup::post_room_keys_version)
        .on("getRoomKeysVersionCurrent", Class::Read, key_backup::get_room_keys_version_current)
        .on("getRoomKeysVersion", Class::Read, key_backup::get_room_keys_version)
        .on("putRoomKeysVersion", Class::Write, key_backup::put_room_keys_version)
        .on("deleteRoomKeysVersion", Class::Write, key_backup::delete_room_keys_version)
        .on("putRoomKeyBySessionId", Class::Write, key_backup::put_room_key_by_session_id)
        .on("getRoomKeyBySessionId", Class::Read, key_backup::get_room_key_by_session_id)
        .on("deleteRoomKeyBySessionId", Class::Write, key_backup::delete_room_key_by_session_id)
        .on("putRoomKeysByRoomId", Class::Write, key_backup::put_room_keys_by_room_id)
        .on("getRoomKeysByRoomId", Class::Bulk, key_backup::get_room_keys_by_room_id)
        .on("deleteRoomKeysByRoomId", Class::Write, key_backup::delete_room_keys_by_room_id)
        .on("putRoomKeys", Class::Write, key_backup::put_room_keys)
        .on("getRoomKeys", Class::Bulk, key_backup::get_room_keys)
        .on("deleteRoomKeys", Class::Write, key_backup::delete_room_keys)
}

fn encryption(routes: ApiRoutes) -> ApiRoutes {
    use dehydrated_devices as dehydrated;
    use end_to_end_encryption as keys;
    routes
        .on("uploadKeys", Class::Write, keys::upload_keys)
        .on("queryKeys", Class::Bulk, keys::query_keys)
        .on("claimKeys", Class::Write, keys::claim_keys)
        .on("getKeysChanges", Class::Read, keys_changes::get_keys_changes)
        .on("uploadCrossSigningKeys", Class::Write, keys::upload_cross_signing_keys)
        .on("uploadCrossSigningSignatures", Class::Write, keys::upload_cross_signing_signatures)
        .on("putDehydratedDevice", Class::Write, dehydrated::put_dehydrated_device)
        .on("getDehydratedDevice", Class::Read, dehydrated::get_dehydrated_device)
        .on("deleteDehydratedDevice", Class::Write, dehydrated::delete_dehydrated_device)
        .on("getDehydratedDeviceEvents", Class::Bulk, dehydrated::get_dehydrated_device_events)
}

fn memberships(routes: ApiRoutes) -> ApiRoutes {
    routes
        .on("createRoom", Class::CreateRoom, create_room::create_room)
        .on("upgradeRoom", Class::CreateRoom, room_upgrades::upgrade_room)
        .on("joinRoomById", Class::Join, joining::join_room_by_id)
        .on("joinRoom", Class::Join, joining::join_room)
        .on("knockRoom", Class::Join, knocking::knock_room)
        .on("inviteUser", Class::Invite, inviting::invite_user)
        .on("leaveRoom", Class::Write, leaving::leave_room)
        .on("forgetRoom", Class::Write, leaving::forget_room)
        .on("kick", Class::Write, kicking::kick)
        .on("ban", Class::Write, banning::ban)
        .on("unban", Class::Write, banning::unban)
        .on("getJoinedRooms", Class::Read, list_joined_rooms::get_joined_rooms)
        .on("getMutualRooms", Class::Read, mutual_rooms::get_mutual_rooms)
}

fn room_writing(routes: ApiRoutes) -> ApiRoutes {
    let set_state = room_state::set_room_state_with_key;
    routes
        .on("sendMessage", Class::Message, room_send::send_message)
        .on("setRoomStateWithKey", Class::Message, set_state)
        .at(&STATE_WITHOUT_KEY, "setRoomStateWithKey", Class::Message, set_state)
        .on("redactEvent", Class::Message, redaction::redact_event)
        .on("setTyping", Class::Write, typing::set_typing)
        .on("postReceipt", Class::Write, receipts::post_receipt)
        .on("setReadMarker", Class::Write, read_markers::set_read_marker)
}

fn room_features(routes: ApiRoutes) -> ApiRoutes {
    routes
        .on("setRoomAlias", Class::Write, directory::set_room_alias)
        .on("getRoomIdByAlias", Class::Read, directory::get_room_id_by_alias)
        .on("deleteRoomAlias", Class::Write, directory::delete_room_alias)
        .on("getLocalAliases", Class::Read, directory::get_local_aliases)
        .on("getRoomVisibilityOnDirectory", Class::Read, list_public_rooms::get_room_visibility_on_directory)
        .on("setRoomVisibilityOnDirectory", Class::Write, list_public_rooms::set_room_visibility_on_directory)
        .on("getPublicRooms", Class::Search, list_public_rooms::get_public_rooms)
        .on("queryPublicRooms", Class::Search, list_public_rooms::query_public_rooms)
        .on("getRoomSummary", Class::Read, room_summary::get_room_summary)
        .on("getSpaceHierarchy", Class::Search, space_hierarchy::get_space_hierarchy)
}

fn room_reading(routes: ApiRoutes) -> ApiRoutes {
    let get_state = room_state::get_room_state_with_key;
    let by_event_type = relations::get_relating_events_with_rel_type_and_event_type;
    routes
        .on("getRoomEvents", Class::Bulk, message_pagination::get_room_events)
        .on("getEventContext", Class::Bulk, event_context::get_event_context)
        .on("getOneRoomEvent", Class::Read, room_event::get_one_room_event)
        .on("getRoomStateWithKey", Class::Read, get_state)
        .at(&STATE_WITHOUT_KEY, "getRoomStateWithKey", Class::Read, get_state)
        .on("getRoomState", Class::Bulk, room_state::get_room_state)
        .on("getMembersByRoom", Class::Bulk, members::get_members_by_room)
        .on("getJoinedMembersByRoom", Class::Bulk, members::get_joined_members_by_room)
        .on("getRelatingEvents", Class::Bulk, relations::get_relating_events)
        .on("getRelatingEventsWithRelType", Class::Bulk, relations::get_relating_events_with_rel_type)
        .on("getRelatingEventsWithRelTypeAndEventType", Class::Bulk, by_event_type)
        .on("getThreadRoots", Class::Bulk, threads_list::get_thread_roots)
        .on("getEventByTimestamp", Class::Read, room_event_by_timestamp::get_event_by_timestamp)
}
