//! nsjail's policy message as prost types, and its descriptors for the text and JSON forms. Private to the
//! crate: the rest of the world sees [`Policy`](crate::Policy) and [`Jail`](crate::Jail).

#![allow(missing_debug_implementations, clippy::doc_markdown)]

use std::sync::LazyLock;

use prost_reflect::{DescriptorPool, DynamicMessage, MessageDescriptor};

include!(concat!(env!("OUT_DIR"), "/nsjail.rs"));

static DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/nsjail.bin"));

/// The descriptor of `nsjail.NsJailConfig`.
pub(crate) fn config_descriptor() -> MessageDescriptor {
    static DESCRIPTOR: LazyLock<MessageDescriptor> = LazyLock::new(|| {
        DescriptorPool::decode(DESCRIPTORS)
            .ok()
            .and_then(|pool| pool.get_message_by_name("nsjail.NsJailConfig"))
            .expect("the descriptors were made by this crate's build script")
    });
    DESCRIPTOR.clone()
}

/// The message by reflection, for writing it as text.
pub(crate) fn reflect(config: &NsJailConfig) -> DynamicMessage {
    let mut message = DynamicMessage::new(config_descriptor());
    message.transcode_from(config).expect("both sides were made from one descriptor");
    message
}
