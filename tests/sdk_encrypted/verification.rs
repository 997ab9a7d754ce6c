//! Cross-signing, and verification by comparing emoji.

use matrix_sdk::{
    Client,
    encryption::{CrossSigningResetAuthType, verification::VerificationRequest},
};

use super::{SYNCS_MAX, bootstrap, by_password, encrypted_room, log_in, me, usual};
use crate::{
    sdk::{register, sync},
    support::{Server, password},
};

/// Whether a client sees somebody's identity as verified.
async fn trusts(client: &Client, other: &Client) -> bool {
    let identity = client.encryption().request_user_identity(me(other)).await.expect("query");
    identity.expect("an identity").is_verified()
}

/// Whether a client sees that the device of the other is signed by its owner.
async fn sees_signed(client: &Client, other: &Client) -> bool {
    let device = other.device_id().expect("logged in");
    let device = client.encryption().get_device(me(other), device).await.expect("store").expect("a device");
    device.is_cross_signed_by_owner()
}

/// Two people, or two devices, compare emoji.
async fn verify_by_emoji(asking: &Client, asked: &Client, request: VerificationRequest) {
    let flow = request.flow_id().to_owned();
    sync(asked).await;
    let theirs = asked.encryption().get_verification_request(me(asking), &flow).await.expect("the request came");
    theirs.accept().await.expect("accept");
    sync(asking).await;
    assert!(request.is_ready());
    let ours = request.start_sas().await.expect("start").expect("both know emoji");
    sync(asked).await;
    let theirs = asked.encryption().get_verification(me(asking), &flow).await.expect("started");
    let theirs = theirs.sas().expect("emoji");
    theirs.accept().await.expect("accept");
    for _ in 0..SYNCS_MAX {
        if ours.can_be_presented() && theirs.can_be_presented() {
            break;
        }
        sync(asking).await;
        sync(asked).await;
    }
    let symbols = ours.emoji().expect("seven emoji").map(|emoji| emoji.symbol);
    assert_eq!(symbols, theirs.emoji().expect("seven emoji").map(|emoji| emoji.symbol));
    ours.confirm().await.expect("the same");
    theirs.confirm().await.expect("the same");
    for _ in 0..SYNCS_MAX {
        if ours.is_done() && theirs.is_done() {
            break;
        }
        sync(asking).await;
        sync(asked).await;
    }
    assert!(ours.is_done() && theirs.is_done(), "{:?} {:?}", ours.state(), theirs.state());
}

#[tokio::test(flavor = "multi_thread")]
async fn identities_are_verified_by_signatures() {
    let server = Server::start();
    let (alice, bob) = (register(&server, "alice").await, register(&server, "bob").await);
    for client in [&alice, &bob] {
        bootstrap(client).await;
    }
    let own = alice.encryption().get_own_device().await.expect("store").expect("a device");
    assert!(own.is_cross_signed_by_owner());
    encrypted_room(&alice, &bob, usual()).await;
    let bobs = alice.encryption().request_user_identity(me(&bob)).await.expect("query").expect("an identity");
    assert!(!bobs.is_verified());
    bobs.verify().await.expect("signed");
    assert!(trusts(&alice, &bob).await, "the server gives Alice her signature back");
    assert!(!trusts(&bob, &alice).await);

    // Bob begins anew, with his password; Alice sees that it isn't who she verified.
    let reset = bob.encryption().reset_cross_signing().await.expect("answer").expect("the password is asked for");
    let CrossSigningResetAuthType::Uiaa(asked) = reset.auth_type() else { panic!("user-interactive") };
    let auth = by_password(&bob, &password("bob"), asked.session.clone());
    reset.auth(Some(auth)).await.expect("with the password");
    sync(&alice).await;
    let bobs = alice.encryption().request_user_identity(me(&bob)).await.expect("query").expect("an identity");
    assert!(!bobs.is_verified() && bobs.has_verification_violation());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_without_the_keys_makes_new_ones_with_the_password() {
    let server = Server::start();
    let phone = register(&server, "alice").await;
    bootstrap(&phone).await;
    let laptop = log_in(&server, "alice", "LAPTOP").await;
    let encryption = laptop.encryption();
    let refused = encryption.bootstrap_cross_signing(None).await.expect_err("the password is asked for");
    let session = refused.as_uiaa_response().expect("user-interactive").session.clone();
    let wrong = by_password(&laptop, "wrong", session.clone());
    let refused = encryption.bootstrap_cross_signing(Some(wrong)).await.expect_err("not the password");
    let asked = refused.as_uiaa_response().expect("user-interactive");
    assert!(asked.auth_error.is_some() && asked.session == session);
    let auth = by_password(&laptop, &password("alice"), session);
    encryption.bootstrap_cross_signing(Some(auth)).await.expect("with the password");
    for client in [&laptop, &phone] {
        sync(client).await;
        assert!(sees_signed(client, &laptop).await && !sees_signed(client, &phone).await);
    }
    assert!(trusts(&laptop, &phone).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn emoji_verify_own_devices_and_other_users() {
    let server = Server::start();
    let (alice, bob) = (register(&server, "alice").await, register(&server, "bob").await);
    for client in [&alice, &bob] {
        bootstrap(client).await;
    }
    // Alice's laptop asks her phone, by messages to devices, and is given the secret keys then.
    let laptop = log_in(&server, "alice", "LAPTOP").await;
    sync(&alice).await;
    assert!(!sees_signed(&alice, &laptop).await);
    let own = laptop.encryption().request_user_identity(me(&alice)).await.expect("query").expect("an identity");
    let request = own.request_verification().await.expect("send");
    verify_by_emoji(&laptop, &alice, request).await;
    for client in [&laptop, &alice] {
        sync(client).await;
        assert!(sees_signed(client, &laptop).await && sees_signed(client, &alice).await);
    }
    let complete = async || laptop.encryption().cross_signing_status().await.is_some_and(|status| status.is_complete());
    for _ in 0..SYNCS_MAX {
        if complete().await {
            break;
        }
        sync(&alice).await;
        sync(&laptop).await;
    }
    assert!(complete().await, "the laptop has the secret keys");

    // Alice, on her laptop, and Bob compare in a room of the two, as people do.
    let room = laptop.create_dm(me(&bob)).await.expect("room").room_id().to_owned();
    sync(&bob).await;
    bob.get_room(&room).expect("invited").join().await.expect("join");
    for client in [&bob, &laptop] {
        sync(client).await;
    }
    assert!(!trusts(&laptop, &bob).await && !trusts(&bob, &alice).await);
    let bobs = laptop.encryption().request_user_identity(me(&bob)).await.expect("query").expect("an identity");
    let request = bobs.request_verification().await.expect("send");
    assert_eq!(request.room_id(), Some(&*room));
    verify_by_emoji(&laptop, &bob, request).await;
    for client in [&laptop, &bob, &alice] {
        sync(client).await;
    }
    assert!(trusts(&laptop, &bob).await && trusts(&bob, &laptop).await);
    assert!(trusts(&alice, &bob).await, "Alice's phone sees what her laptop signed");
    assert!(sees_signed(&bob, &laptop).await && sees_signed(&bob, &alice).await);

    // Device to device, between users.
    let bobs_laptop = log_in(&server, "bob", "LAPTOP").await;
    sync(&laptop).await;
    let device = bobs_laptop.device_id().expect("logged in");
    let device = laptop.encryption().get_device(me(&bob), device).await.expect("store").expect("a device");
    assert!(!device.is_verified());
    let request = device.request_verification().await.expect("send");
    verify_by_emoji(&laptop, &bobs_laptop, request).await;
    let device = laptop.encryption().get_device(me(&bob), device.device_id()).await.expect("store");
    assert!(device.expect("a device").is_verified());
}
