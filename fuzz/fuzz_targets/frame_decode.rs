//! Invariant tested: no bytes make the decoder panic, and what it accepts, it encodes into bytes
//! that decode to an equal value.
#![no_main]

use std::fmt::Debug;

use libfuzzer_sys::fuzz_target;
use rust_core::channel::{decode, encode};
use rust_core::spec::{InitReply, InitRequest, SupervisorReply, SupervisorRequest};
use serde::{Serialize, de::DeserializeOwned};

fn there_and_back<T: Debug + PartialEq + Serialize + DeserializeOwned>(bytes: &[u8]) {
    if let Ok(value) = decode::<T>(bytes) {
        let again = encode(&value).expect("a value that was decoded");
        assert_eq!(decode::<T>(&again).expect("bytes that were encoded"), value);
    }
}

fuzz_target!(|data: &[u8]| {
    there_and_back::<SupervisorRequest>(data);
    there_and_back::<SupervisorReply>(data);
    there_and_back::<InitRequest>(data);
    there_and_back::<InitReply>(data);
});
