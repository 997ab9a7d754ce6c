//! What a state maps to.

use serde::{Deserialize, Serialize};
use store::{Decode, DecodeError, Encode, EncodeValue, Reader, Value, Writer, decode_all};

/// Names an event id inside this server. Handed out from a counter before the event is stored; never an order.
#[derive(Copy, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct EventNum(pub u64);

impl Encode<EventNum> for EventNum {
    fn encode(&self, w: &mut Writer) {
        Encode::<u64>::encode(&self.0, w);
    }
}

impl Encode<EventNum> for &EventNum {
    fn encode(&self, w: &mut Writer) {
        Encode::<u64>::encode(&self.0, w);
    }
}

impl EncodeValue<EventNum> for EventNum {
    fn encode_value(&self, w: &mut Writer) {
        Encode::<Self>::encode(self, w);
    }
}

impl Value for EventNum {
    fn decode_value(bytes: &[u8]) -> Result<Self, DecodeError> {
        decode_all(bytes)
    }
}

impl Decode for EventNum {
    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self(u64::decode(r)?))
    }
}
