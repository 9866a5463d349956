//! Frames on the socket between guest and host side.
//!
//! A frame is `u32 LE` length of what follows, `u32 LE` length of the header, the header (JSON, see [`super::message`]),
//! and a tail of bytes that JSON should not carry: secrets, paths, keys. At most one file descriptor travels with a
//! frame, attached to its first byte, and only from the host side to the guest.
//!
//! Both ends treat the other as untrusted: lengths are checked before anything is allocated, and the host side reads
//! with `read(2)`, by which the kernel drops any descriptor that a guest might send along.

use std::io::{self, IoSlice, IoSliceMut, Read};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};

/// No frame is longer than this, its two lengths not counted.
pub const FRAME_LIMIT: usize = 1 << 20;

#[derive(Debug)]
pub struct Frame {
    pub header: Vec<u8>,
    pub tail: Vec<u8>,
    pub descriptor: Option<OwnedFd>,
}

/// Whether a reader takes descriptors or lets the kernel close them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Descriptors {
    Take,
    Drop,
}

/// Writes one frame. Blocks while the other end does not read.
pub fn send(
    socket: &UnixStream,
    header: &[u8],
    tail: &[u8],
    descriptor: Option<BorrowedFd<'_>>,
) -> io::Result<()> {
    let body = 4 + header.len() + tail.len();
    if body > FRAME_LIMIT {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("a frame of {body} bytes is too long"),
        ));
    }
    let mut bytes = Vec::with_capacity(4 + body);
    bytes.extend_from_slice(&(body as u32).to_le_bytes());
    bytes.extend_from_slice(&(header.len() as u32).to_le_bytes());
    bytes.extend_from_slice(header);
    bytes.extend_from_slice(tail);

    let mut sent = match descriptor {
        Some(descriptor) => send_with(socket, &bytes, descriptor)?,
        None => 0,
    };
    while sent < bytes.len() {
        sent += rustix::io::retry_on_intr(|| rustix::net::send(socket, &bytes[sent..], SendFlags::NOSIGNAL))?;
    }
    Ok(())
}

fn send_with(socket: &UnixStream, bytes: &[u8], descriptor: BorrowedFd<'_>) -> io::Result<usize> {
    let descriptors = [descriptor];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !control.push(SendAncillaryMessage::ScmRights(&descriptors)) {
        return Err(io::Error::other("no room for a descriptor"));
    }
    Ok(rustix::io::retry_on_intr(|| {
        rustix::net::sendmsg(socket, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL)
    })?)
}

/// Reads one frame; `None` when the other end closed between two frames.
pub fn receive(socket: &UnixStream, descriptors: Descriptors) -> io::Result<Option<Frame>> {
    let mut taken = None;
    let mut length = [0; 4];
    if !fill(socket, &mut length, descriptors, &mut taken, true)? {
        return Ok(None);
    }
    let length = u32::from_le_bytes(length) as usize;
    if !(4..=FRAME_LIMIT).contains(&length) {
        return Err(broken(format!("a frame of {length} bytes")));
    }
    let mut header_length = [0; 4];
    fill(socket, &mut header_length, descriptors, &mut taken, false)?;
    let header_length = u32::from_le_bytes(header_length) as usize;
    if header_length > length - 4 {
        return Err(broken(format!("a header of {header_length} bytes in a frame of {length}")));
    }
    let mut header = vec![0; header_length];
    fill(socket, &mut header, descriptors, &mut taken, false)?;
    let mut tail = vec![0; length - 4 - header_length];
    fill(socket, &mut tail, descriptors, &mut taken, false)?;
    Ok(Some(Frame { header, tail, descriptor: taken }))
}

/// Fills `buffer`; `false` when the stream ended before its first byte and `may_end` says that this is fine.
fn fill(
    socket: &UnixStream,
    buffer: &mut [u8],
    descriptors: Descriptors,
    taken: &mut Option<OwnedFd>,
    may_end: bool,
) -> io::Result<bool> {
    let mut filled = 0;
    while filled < buffer.len() {
        let part = &mut buffer[filled..];
        let count = match descriptors {
            Descriptors::Drop => match { socket }.read(part) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                other => other?,
            },
            Descriptors::Take => read_with(socket, part, taken)?,
        };
        if count == 0 {
            if may_end && filled == 0 {
                return Ok(false);
            }
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        filled += count;
    }
    Ok(true)
}

fn read_with(socket: &UnixStream, part: &mut [u8], taken: &mut Option<OwnedFd>) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = rustix::io::retry_on_intr(|| {
        rustix::net::recvmsg(socket, &mut [IoSliceMut::new(part)], &mut control, RecvFlags::CMSG_CLOEXEC)
    })?;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(descriptors) = message {
            for descriptor in descriptors {
                if taken.replace(descriptor).is_some() {
                    return Err(broken("more than one descriptor with a frame".into()));
                }
            }
        }
    }
    // With the process's table full the descriptor is lost and the frame still whole: whoever waits for it finds none.
    if received.flags.contains(ReturnFlags::CTRUNC) && taken.is_some() {
        return Err(broken("more descriptors with a frame than it may have".into()));
    }
    Ok(received.bytes)
}

fn broken(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
#[path = "wire_properties.rs"]
mod properties;

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn frames_arrive_as_they_were_sent() {
        let (near, far) = UnixStream::pair().unwrap();
        let big = vec![7; FRAME_LIMIT - 4 - 2];
        let writer = std::thread::spawn(move || {
            send(&near, b"{}", b"", None).unwrap();
            let (pipe, mut end) = io::pipe().unwrap();
            end.write_all(b"hi").unwrap();
            drop(end);
            send(&near, b"{}", &big, Some(pipe.as_fd())).unwrap();
            send(&near, b"", b"tail", None).unwrap();
            assert_eq!(send(&near, b"{}3", &big, None).unwrap_err().kind(), io::ErrorKind::InvalidInput);
        });
        let first = receive(&far, Descriptors::Take).unwrap().unwrap();
        assert_eq!((first.header.as_slice(), first.tail.len()), (&b"{}"[..], 0));
        assert!(first.descriptor.is_none());
        let second = receive(&far, Descriptors::Take).unwrap().unwrap();
        assert_eq!(second.tail.len(), FRAME_LIMIT - 6);
        let mut text = String::new();
        std::fs::File::from(second.descriptor.unwrap()).read_to_string(&mut text).unwrap();
        assert_eq!(text, "hi");
        let third = receive(&far, Descriptors::Take).unwrap().unwrap();
        assert_eq!((third.header.len(), third.tail.as_slice()), (0, &b"tail"[..]));
        assert!(receive(&far, Descriptors::Take).unwrap().is_none());
        writer.join().unwrap();
    }

    #[test]
    fn rubbish_ends_the_stream() {
        let table: [(&[u8], io::ErrorKind); 5] = [
            (&[1, 0], io::ErrorKind::UnexpectedEof),
            (&[3, 0, 0, 0, 0, 0, 0], io::ErrorKind::InvalidData),
            (&[0xff, 0xff, 0xff, 0xff], io::ErrorKind::InvalidData),
            (&[6, 0, 0, 0, 3, 0, 0, 0, 1, 2], io::ErrorKind::InvalidData),
            (&[6, 0, 0, 0, 2, 0, 0, 0, 1], io::ErrorKind::UnexpectedEof),
        ];
        for (bytes, kind) in table {
            for descriptors in [Descriptors::Drop, Descriptors::Take] {
                let (mut near, far) = UnixStream::pair().unwrap();
                near.write_all(bytes).unwrap();
                drop(near);
                assert_eq!(receive(&far, descriptors).unwrap_err().kind(), kind, "{bytes:?}");
            }
        }
    }

    #[test]
    fn the_host_side_takes_no_descriptors() {
        let (near, far) = UnixStream::pair().unwrap();
        let (watch, end) = io::pipe().unwrap();
        send(&near, b"{}", b"", Some(end.as_fd())).unwrap();
        drop(end);
        let frame = receive(&far, Descriptors::Drop).unwrap().unwrap();
        assert!(frame.descriptor.is_none());
        // The kernel closed the other end of the pipe with the message.
        assert_eq!({ &watch }.read(&mut [0]).unwrap(), 0);
    }
}
