//! The encoding of keys and rows keeps their order, and reads back.

use proptest::prelude::*;
use store::{
    Decode, Encode, Fixed, Key, Position, Prefix, Text, Value, Writer, decode_all, encode_to_vec, encode_value_to_vec,
};

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

/// Every kind of part, in a key and in a value.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Key, Value)]
struct Parts<S = String, B = Vec<u8>, T = Text<String>> {
    text: S,
    signed: i64,
    raw: B,
    optional: Option<S>,
    flag: bool,
    position: Position,
    fixed: Fixed<2>,
    id: T,
}

fn parts() -> impl Strategy<Value = Parts> {
    let numbers = (-2..2_i64, any::<bool>(), any::<u64>());
    (string(), bytes(), proptest::option::of(string()), numbers, any::<[u8; 2]>(), string()).prop_map(
        |(text, raw, optional, numbers, fixed, id)| {
            let (signed, flag, position) = numbers;
            let position = Position::from_u64(position);
            Parts { text, signed, raw, optional, flag, position, fixed: Fixed(fixed), id: Text(id) }
        },
    )
}

impl Parts {
    fn borrowed(&self) -> Parts<&str, &[u8], &str> {
        let Self { text, signed, raw, optional, flag, position, fixed, id } = self;
        Parts {
            text,
            signed: *signed,
            raw,
            optional: optional.as_deref(),
            flag: *flag,
            position: *position,
            fixed: *fixed,
            id: id.as_ref(),
        }
    }

    /// The encoding without the derive.
    fn one_after_another(&self) -> Vec<u8> {
        let mut w = Writer::new();
        Encode::<String>::encode(&self.text, &mut w);
        Encode::<i64>::encode(&self.signed, &mut w);
        Encode::<Vec<u8>>::encode(&self.raw, &mut w);
        Encode::<Option<String>>::encode(&self.optional, &mut w);
        Encode::<bool>::encode(&self.flag, &mut w);
        Encode::<Position>::encode(&self.position, &mut w);
        Encode::<Fixed<2>>::encode(&self.fixed, &mut w);
        Encode::<Text<String>>::encode(&self.id, &mut w);
        w.as_bytes().to_vec()
    }
}

fn prefix(prefix: &impl Prefix<Parts>) -> Vec<u8> {
    let mut writer = Writer::new();
    prefix.encode_prefix(&mut writer);
    writer.as_bytes().to_vec()
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
        check(&small.0, &7);
        check(&small.1, &7);
        check(&small.2, &7);
        check(&small.3, &false);
        check(&optional.0, &optional.1);
    }

    #[test]
    fn pairs_keep_their_order(a in (string(), -2..2_i64), b in (string(), -2..2_i64)) {
        check(&a, &b);
        check(&(a.1, a.0), &(b.1, b.0));
    }

    #[test]
    fn structs_keep_their_order(a in parts(), b in parts()) {
        check(&a, &b);
        check(&a, &Parts { text: a.text.clone(), ..b.clone() });
    }

    #[test]
    fn structs_are_their_fields_one_after_another(parts in parts()) {
        let whole = parts.one_after_another();
        prop_assert_eq!(&whole, &encode_to_vec::<Parts>(&parts));
        prop_assert_eq!(&whole, &encode_to_vec::<Parts>(&&parts.borrowed()));
        prop_assert_eq!(&whole, &encode_value_to_vec::<Parts>(&parts));
        prop_assert_eq!(&whole, &encode_value_to_vec::<Parts>(&parts.borrowed()));
        prop_assert_eq!(&decode_all::<Parts>(&whole).unwrap(), &parts);
        prop_assert_eq!(&Parts::decode_value(&whole).unwrap(), &parts);
        for length in 0..whole.len() {
            prop_assert!(Parts::decode_value(&whole[..length]).is_err());
        }
        let longer = [whole, vec![0]].concat();
        prop_assert!(Parts::decode_value(&longer).is_err() && decode_all::<Parts>(&longer).is_err());
    }

    #[test]
    fn leading_fields_are_a_prefix(parts in parts()) {
        let Parts { text, signed, raw, optional, flag, position, fixed, id } = &parts;
        let prefixes = [
            prefix(&()),
            prefix(&(text,)),
            prefix(&(text.as_str(), *signed)),
            prefix(&(text, signed, raw)),
            prefix(&(text, signed, raw, optional)),
            prefix(&(text, signed, &raw[..], optional.as_deref(), flag)),
            prefix(&(text, signed, raw, optional, flag, position)),
            prefix(&(text, signed, raw, optional, flag, position, fixed.0)),
            prefix(&(text, signed, raw, optional, flag, position, fixed, id)),
        ];
        for (shorter, longer) in prefixes.iter().zip(&prefixes[1..]) {
            prop_assert!(longer.starts_with(shorter) && longer.len() > shorter.len());
        }
        let whole = encode_to_vec::<Parts>(&parts);
        prop_assert_eq!(&whole, &prefixes[8]);
        prop_assert_eq!(&whole, &prefix(&parts.borrowed()));
    }

    #[test]
    fn other_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
        if let Ok(parts) = decode_all::<Parts>(&bytes) {
            prop_assert_eq!(encode_to_vec::<Parts>(&parts), bytes);
        }
    }
}
