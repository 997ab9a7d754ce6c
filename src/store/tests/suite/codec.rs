//! The encoding of keys keeps their order, and reads back.

use proptest::prelude::*;
use store::{Decode, Encode, Fixed, Position, Prefix, Text, Writer, decode_all, encode_to_vec};

fn check<K>(a: &K, b: &K)
where
    K: Ord + Encode<K> + Decode + std::fmt::Debug,
{
    let (encoded_a, encoded_b) = (encode_to_vec::<K>(a), encode_to_vec::<K>(b));
    assert_eq!(encoded_a.cmp(&encoded_b), a.cmp(b), "{a:?} and {b:?}");
    assert_eq!(&decode_all::<K>(&encoded_a).unwrap(), a);
}

fn string() -> impl Strategy<Value = String> {
    proptest::collection::vec(prop_oneof![Just('\0'), Just('\u{1}'), Just('\u{2}'), any::<char>()], 0..5)
        .prop_map(|chars| chars.into_iter().collect())
}

fn bytes() -> impl Strategy<Value = Vec<u8>> {
    proptest::collection::vec(prop_oneof![0..3_u8, Just(255), any::<u8>()], 0..5)
}

type Key = (String, i64, Vec<u8>, Option<u16>, bool, Position, Fixed<2>, Text<u32>);

fn key() -> impl Strategy<Value = Key> {
    let numbers = (-2..2_i64, any::<Option<u16>>(), any::<bool>(), any::<u64>());
    (string(), bytes(), numbers, any::<[u8; 2]>()).prop_map(|(text, raw, numbers, fixed)| {
        let (signed, optional, flag, position) = numbers;
        let position = Position::from_u64(position);
        (text, signed, raw, optional, flag, position, Fixed(fixed), Text(7))
    })
}

proptest! {
    #[test]
    fn parts_keep_their_order(
        strings in (string(), string()),
        raw in (bytes(), bytes()),
        signed in any::<(i64, i64)>(),
        unsigned in any::<(u64, u64)>(),
        small in any::<(u8, u16, u32, bool)>(),
        optional in (proptest::option::of(string()), proptest::option::of(string())),
    ) {
        check(&strings.0, &strings.1);
        check(&raw.0, &raw.1);
        check(&signed.0, &signed.1);
        check(&unsigned.0, &unsigned.1);
        check(&small, &(small.0, 7, 7, false));
        check(&optional.0, &optional.1);
    }

    #[test]
    fn tuples_keep_their_order(a in (string(), -2..2_i64, bytes()), b in (string(), -2..2_i64, bytes())) {
        check(&a, &b);
        check(&(&a.0, a.1).0.clone(), &b.0);
    }

    #[test]
    fn leading_elements_are_a_prefix(key in key()) {
        let whole = encode_whole(&key);
        let mut writer = Writer::new();
        Prefix::<Key>::encode_prefix(&(&key.0, key.1, &key.2), &mut writer);
        let len = writer.len();
        let mut all = Writer::new();
        all.raw(&whole[..len]);
        prop_assert_eq!(format!("{writer:?}"), format!("{all:?}"));
        let back: Key = decode_all(&whole).unwrap();
        prop_assert_eq!(back, key);
    }

    #[test]
    fn other_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
        if let Ok(key) = decode_all::<Key>(&bytes) {
            prop_assert_eq!(encode_whole(&key), bytes);
        }
    }
}

/// `Text<u32>` is stored as the number's digits; numbers are no strings, so spell them.
fn encode_whole(key: &Key) -> Vec<u8> {
    let number = key.7.0.to_string();
    let parts = (&key.0, key.1, &key.2, key.3, key.4, key.5, key.6, number.as_str());
    encode_to_vec::<Key>(&parts)
}
