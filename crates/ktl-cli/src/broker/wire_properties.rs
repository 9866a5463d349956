//! Whatever the other end writes: frames within their bounds or an error, never a panic, and never a wait for more than the
//! stream has.

use std::io::Write as _;

use proptest::prelude::*;

use super::super::message::{Ask, Envelope, Reply};
use super::*;

/// Reads until the stream ends or breaks, and gives what came.
fn drain(bytes: &[u8], descriptors: Descriptors) -> (Vec<Frame>, Option<io::Error>) {
    let (mut near, far) = UnixStream::pair().unwrap();
    near.write_all(bytes).unwrap();
    drop(near);
    let mut frames = Vec::new();
    loop {
        match receive(&far, descriptors) {
            Ok(Some(frame)) => frames.push(frame),
            Ok(None) => return (frames, None),
            Err(error) => return (frames, Some(error)),
        }
    }
}

/// JSON of any shape, with the names of messages among its own.
fn json() -> impl Strategy<Value = serde_json::Value> {
    let name = prop_oneof![
        prop::sample::select(vec![
            "version",
            "id",
            "ask",
            "answer",
            "host",
            "salt",
            "secret",
            "agent",
            "open",
            "local",
            "access",
            "credentials",
            "fetch-token",
            "sign-challenge",
            "token",
            "errno",
            "exists",
            "descriptor",
            "nothing",
            "bytes",
            "refused",
        ])
        .prop_map(str::to_owned),
        "\\PC{0,6}",
    ];
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(Into::into),
        any::<i64>().prop_map(Into::into),
        any::<u64>().prop_map(Into::into),
        any::<f64>().prop_map(Into::into),
        Just(serde_json::Value::from(1)),
        name.clone().prop_map(Into::into),
    ];
    leaf.prop_recursive(4, 24, 5, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Into::into),
            prop::collection::vec((name.clone(), inner), 0..5)
                .prop_map(|entries| serde_json::Value::Object(entries.into_iter().collect())),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_end(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        for descriptors in [Descriptors::Drop, Descriptors::Take] {
            let (frames, error) = drain(&bytes, descriptors);
            let read: usize = frames.iter().map(|frame| 8 + frame.header.len() + frame.tail.len()).sum();
            prop_assert!(read <= bytes.len());
            prop_assert_eq!(error.is_none(), read == bytes.len());
            prop_assert!(frames.iter().all(|frame| frame.descriptor.is_none()));
        }
    }

    /// Lengths that nearly fit.
    #[test]
    fn any_lengths_end(
        length in prop_oneof![0..40_u32, Just(FRAME_LIMIT as u32), Just(FRAME_LIMIT as u32 + 1), any::<u32>()],
        header in prop_oneof![0..40_u32, any::<u32>()],
        rest in prop::collection::vec(any::<u8>(), 0..40),
    ) {
        let bytes = [&length.to_le_bytes()[..], &header.to_le_bytes(), &rest].concat();
        let (frames, error) = drain(&bytes, Descriptors::Drop);
        match frames.first() {
            Some(frame) => {
                prop_assert_eq!(frame.header.len(), header as usize);
                prop_assert_eq!(4 + frame.header.len() + frame.tail.len(), length as usize);
            }
            None => prop_assert!(error.is_some()),
        }
        if length as usize > FRAME_LIMIT || length < 4 {
            prop_assert_eq!(error.map(|error| error.kind()), Some(io::ErrorKind::InvalidData));
        }
    }

    #[test]
    fn frames_come_back(frames in prop::collection::vec(
        (prop::collection::vec(any::<u8>(), 0..200), prop::collection::vec(any::<u8>(), 0..200)), 0..6)
    ) {
        let (near, far) = UnixStream::pair().unwrap();
        for (header, tail) in &frames {
            send(&near, header, tail, None).unwrap();
        }
        drop(near);
        for (header, tail) in &frames {
            let frame = receive(&far, Descriptors::Drop).unwrap().unwrap();
            prop_assert_eq!((&frame.header, &frame.tail), (header, tail));
        }
        prop_assert!(receive(&far, Descriptors::Drop).unwrap().is_none());
    }

    /// Headers: a question that is understood is understood again when it is written.
    #[test]
    fn any_header_is_answered(header in json(), ask in json(), noise in prop::collection::vec(any::<u8>(), 0..60)) {
        let _ = serde_json::from_slice::<Envelope>(&noise);
        let _ = serde_json::from_slice::<Reply>(&noise);
        let _ = serde_json::from_value::<Envelope>(header.clone());
        if let Ok(reply) = serde_json::from_value::<Reply>(header) {
            let again = serde_json::to_value(&reply).unwrap();
            prop_assert_eq!(serde_json::from_value::<Reply>(again).unwrap(), reply);
        }
        if let Ok(ask) = serde_json::from_value::<Ask>(ask) {
            prop_assert!(!ask.kind().is_empty());
            let again = serde_json::to_value(&ask).unwrap();
            prop_assert_eq!(serde_json::from_value::<Ask>(again).unwrap(), ask);
        }
    }
}

/// Deep nesting ends in an error, not on the stack's end.
#[test]
fn deep_headers_are_refused() {
    for (open, close) in [("[", "]"), ("{\"ask\":", "}")] {
        let deep =
            format!("{{\"version\":1,\"id\":1,\"ask\":{}1{}}}", open.repeat(100_000), close.repeat(100_000));
        assert!(deep.len() < FRAME_LIMIT);
        assert!(serde_json::from_str::<Envelope>(&deep).is_err());
    }
}
