//! `/proc/self/mountinfo` (proc_pid_mountinfo(5)): the mount tree as the kernel has it.

use std::fs;
use std::io;

/// One mount, in the order of the file, which is the order of mounting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MountEntry {
    pub mount_point: Vec<u8>,
    pub read_only: bool,
    pub fstype: String,
}

/// This process's mounts.
pub(crate) fn read() -> io::Result<Vec<MountEntry>> {
    parse(&fs::read("/proc/self/mountinfo")?)
}

pub(crate) fn parse(bytes: &[u8]) -> io::Result<Vec<MountEntry>> {
    bytes
        .split(|b| *b == b'\n')
        .filter(|line| !line.is_empty())
        .map(|line| {
            parse_line(line).ok_or_else(|| {
                let line = String::from_utf8_lossy(line).into_owned();
                io::Error::new(io::ErrorKind::InvalidData, format!("mountinfo line {line:?}"))
            })
        })
        .collect()
}

fn parse_line(line: &[u8]) -> Option<MountEntry> {
    let fields: Vec<&[u8]> = line.split(|b| *b == b' ').collect();
    let separator = fields.iter().position(|field| *field == b"-")?;
    let options = *fields.get(5)?;
    Some(MountEntry {
        mount_point: unescape(fields.get(4)?),
        read_only: options.split(|b| *b == b',').any(|option| option == b"ro"),
        fstype: String::from_utf8_lossy(fields.get(separator + 1)?).into_owned(),
    })
}

/// The kernel writes blank, tab, newline and backslash as three octal digits.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, tail)) = rest.split_first() {
        let octal = |b: u8| (b'0'..=b'7').contains(&b).then(|| b - b'0');
        if first == b'\\'
            && let [a, b, c, ..] = *tail
            && let (Some(a), Some(b), Some(c)) = (octal(a), octal(b), octal(c))
            && a < 4
        {
            out.push(a * 64 + b * 8 + c);
            rest = &tail[3..];
        } else {
            out.push(first);
            rest = tail;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_lines_and_escapes() {
        let text = b"24 1 254:0 / / rw,relatime - ext4 /dev/vda rw\n\
            30 24 0:5 /x /a\\040b\\012c\\134d ro,nosuid shared:1 master:2 - tmpfs tmp rw,size=4k\n";
        let entries = parse(text).unwrap();
        assert_eq!(entries[0].mount_point, b"/");
        assert!(!entries[0].read_only);
        assert_eq!(entries[1].mount_point, b"/a b\nc\\d");
        assert!(entries[1].read_only);
        assert_eq!(entries[1].fstype, "tmpfs");
        assert!(parse(b"24 1 0:1\n").is_err());
        assert!(parse(b"24 1 0:1 / /\n").is_err());
        assert!(read().unwrap().iter().any(|e| e.mount_point == b"/"));
    }
}
