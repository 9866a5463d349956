//! The guest's result comes from inside the jail: any bytes, any length.

use std::io::Write as _;

use proptest::prelude::*;
use proptest::test_runner::TestCaseError;

use sandbox_linux::Proof;

use super::*;
use crate::log::Reported;
use crate::look::Looked;

/// What a guest hands out that has proven its jail and then writes `bytes`.
fn after_a_proof(bytes: &[u8]) -> Vec<u8> {
    let proof = Proof {
        namespaces: Vec::new(),
        shared_namespaces: Vec::new(),
        uid_map: Vec::new(),
        uid: 0,
        mounts: 0,
        capabilities: 0,
        no_new_privs: true,
        filters: 1,
        no_network: true,
        warnings: Vec::new(),
    };
    let mut text = Vec::new();
    Reported::Proven(proof).hand_out(&mut text).unwrap();
    text.extend_from_slice(bytes);
    text
}

fn hear<R: DeserializeOwned>(file: File) -> Result<R, Failure> {
    let ui = Ui { verbose: false, quiet: true };
    heard::hear(file, &Outcome::Exited(0), &Log::off(&ui))
}

fn file(bytes: &[u8]) -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    file
}

fn answers(bytes: &[u8]) -> Result<(), TestCaseError> {
    // Wherever the guest has left the descriptor, the whole is read.
    if let Ok(result) = hear::<GuestResult>(file(&after_a_proof(bytes))) {
        let again = after_a_proof(&serde_json::to_vec(&result).unwrap());
        prop_assert_eq!(
            hear::<GuestResult>(file(&again)).unwrap().exporter_response,
            result.exporter_response
        );
    }
    for bytes in [bytes.to_vec(), after_a_proof(bytes)] {
        if let Err(failure) = hear::<Looked>(file(&bytes)) {
            prop_assert!(matches!(failure.exit, Exit::Sandbox));
        }
    }
    prop_assert!(hear::<GuestResult>(file(bytes)).is_err(), "without a proof there is no result");
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_are_answered(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        answers(&bytes)?;
    }

    #[test]
    fn any_pieces_are_answered(pieces in prop::collection::vec(prop::sample::select(vec![
        "{", "}", "[", "]", ":", ",", "\"", "\"exporter_response\"", "\"proof\"", "\"answers\"", "\"builder\"", "null", "1", "-1",
        "1e999", "\"\\u0000\"", "\"\\ud800\"", "é", "true", " ",
    ]), 0..24)) {
        answers(pieces.concat().as_bytes())?;
    }
}

#[test]
fn a_result_without_end_is_cut_off() {
    let endless = file(b"{");
    endless.set_len(1 << 40).unwrap();
    let failure = hear::<GuestResult>(endless).unwrap_err();
    assert!(format!("{failure:?}").contains("larger than 16 MiB"), "{failure:?}");
    let deep = format!("{{\"exporter_response\":{}", "[".repeat(1 << 20));
    assert!(hear::<GuestResult>(file(&after_a_proof(deep.as_bytes()))).is_err());
}

#[test]
fn a_policys_mistake_is_shown_at_its_place() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("p.cfg");
    for (text, place, hint) in [
        ("# é\nmount {\n\tsrc: \"é\" rw: 2 }\n", ":3:15: ", "3 | \tsrc: \"é\" rw: 2 }\n  | \t             ^"),
        ("{\n \"mount\": [ {} ]\n}", ":2:13: ", "2 |  \"mount\": [ {} ]\n  |             ^"),
        ("mode: ONCE\nmount {", ":2:8: ", "2 | mount {\n  |        ^"),
        ("", ":1:1: ", ""),
    ] {
        std::fs::write(&path, text).unwrap();
        let failure = read_policy(&path).unwrap_err();
        assert!(matches!(failure.exit, Exit::Sandbox));
        assert!(failure.title.contains(place), "{text:?}: {}", failure.title);
        assert_eq!(failure.hints.join("\n"), hint, "{text:?}");
    }
}
