//! Every operation of the API with the class that it counts as.

use haima_http::{Class, Endpoint, Router, Routes};

use crate::{
    ClientApi, account_data, capabilities, device_management, filter, login, login_token, logout, password_management,
    pushrules, refresh, registration, registration_tokens, support, tags, third_party_lookup, versions, voip, wellknown,
    whoami,
};

/// The router of the client-server API, and the list of its endpoints.
pub fn router(api: ClientApi) -> (Router, Vec<Endpoint>) {
    let routes = Routes::new(api.clone(), api.gate.clone());
    user_data(sessions(discovery(routes))).finish()
}

type ApiRoutes = Routes<ClientApi>;

fn discovery(routes: ApiRoutes) -> ApiRoutes {
    routes
        .on("health", Class::Free, versions::health)
        .on("getVersions", Class::Free, versions::get_versions)
        .on("getWellknown", Class::Free, wellknown::get_wellknown)
        .on("getWellknownSupport", Class::Free, support::get_wellknown_support)
        .on("getCapabilities", Class::Read, capabilities::get_capabilities)
        .on("getProtocols", Class::Read, third_party_lookup::get_protocols)
        .on("getTurnServer", Class::Read, voip::get_turn_server)
}

fn sessions(routes: ApiRoutes) -> ApiRoutes {
    routes
        .on("register", Class::Registration, registration::register)
        .on("checkUsernameAvailability", Class::Registration, registration::check_username_availability)
        .on("registrationTokenValidity", Class::Registration, registration_tokens::registration_token_validity)
        .on("getLoginFlows", Class::Free, login::get_login_flows)
        .on("login", Class::Login, login::login)
        .on("generateLoginToken", Class::Write, login_token::generate_login_token)
        .on("refresh", Class::Login, refresh::refresh)
        .on("logout", Class::Write, logout::logout)
        .on("logout_all", Class::Write, logout::logout_all)
        .on("getTokenOwner", Class::Read, whoami::get_token_owner)
        .on("changePassword", Class::Write, password_management::change_password)
        .on("getDevices", Class::Read, device_management::get_devices)
        .on("getDevice", Class::Read, device_management::get_device)
        .on("updateDevice", Class::Write, device_management::update_device)
        .on("deleteDevice", Class::Write, device_management::delete_device)
        .on("deleteDevices", Class::Write, device_management::delete_devices)
}

fn user_data(routes: ApiRoutes) -> ApiRoutes {
    routes
        .on("setAccountData", Class::Write, account_data::set_account_data)
        .on("getAccountData", Class::Read, account_data::get_account_data)
        .on("setAccountDataPerRoom", Class::Write, account_data::set_account_data_per_room)
        .on("getAccountDataPerRoom", Class::Read, account_data::get_account_data_per_room)
        .on("getRoomTags", Class::Read, tags::get_room_tags)
        .on("setRoomTag", Class::Write, tags::set_room_tag)
        .on("deleteRoomTag", Class::Write, tags::delete_room_tag)
        .on("defineFilter", Class::Write, filter::define_filter)
        .on("getFilter", Class::Read, filter::get_filter)
        .on("getPushRules", Class::Read, pushrules::get_push_rules)
        .on("getPushRulesGlobal", Class::Read, pushrules::get_push_rules_global)
        .on("getPushRule", Class::Read, pushrules::get_push_rule)
        .on("setPushRule", Class::Write, pushrules::set_push_rule)
        .on("deletePushRule", Class::Write, pushrules::delete_push_rule)
        .on("isPushRuleEnabled", Class::Read, pushrules::is_push_rule_enabled)
        .on("setPushRuleEnabled", Class::Write, pushrules::set_push_rule_enabled)
        .on("getPushRuleActions", Class::Read, pushrules::get_push_rule_actions)
        .on("setPushRuleActions", Class::Write, pushrules::set_push_rule_actions)
}
