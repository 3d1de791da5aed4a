//! What the file of a program is that the kernel does not take: a script without a first line that names its
//! interpreter, a program of another machine, or none of both.

use std::fs::File;
use std::io::Read;
use std::path::Path;

/// How much of a file is looked at, in bytes.
const HEAD: usize = 4 * 1024;

/// A file that the kernel does not take.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Rejected {
    /// Text: a shell may run it, as in every shell and in tini.
    Script,
    /// What it is instead, in words.
    Other(String),
}

/// Why the kernel does not take this file.
pub(super) fn rejected(path: &Path) -> Rejected {
    let mut head = Vec::new();
    match File::open(path).and_then(|file| file.take(HEAD as u64).read_to_end(&mut head)) {
        Ok(_) => judge(&head),
        Err(error) => Rejected::Other(format!("the kernel does not take it, and it cannot be read: {error}")),
    }
}

fn judge(head: &[u8]) -> Rejected {
    if let Some(elf) = head.strip_prefix(b"\x7fELF") {
        let machine = match elf {
            [_, 2, _, ..] => elf.get(14..16).map(|bytes| u16::from_be_bytes([bytes[0], bytes[1]])),
            _ => elf.get(14..16).map(|bytes| u16::from_le_bytes([bytes[0], bytes[1]])),
        };
        let machine = machine.map_or("an unknown machine".to_owned(), machine_name);
        let ours = std::env::consts::ARCH;
        return Rejected::Other(format!("it is a program for {machine}, and this machine is {ours}"));
    }
    if head.starts_with(b"\xef\xbb\xbf#!") {
        let text = "a byte-order mark stands before its #!, so the kernel does not see that: save it without";
        return Rejected::Other(text.to_owned());
    }
    let first_line = head.split(|byte| *byte == b'\n').next().unwrap_or_default();
    match first_line.contains(&0) {
        true => Rejected::Other("it is neither a program for this machine nor a script".to_owned()),
        false => Rejected::Script,
    }
}

/// The architecture with this number in the header of an ELF file.
fn machine_name(machine: u16) -> String {
    let name = match machine {
        3 => "x86",
        8 => "mips",
        20 => "powerpc",
        21 => "powerpc64",
        22 => "s390x",
        40 => "arm",
        62 => "x86_64",
        183 => "aarch64",
        243 => "riscv64",
        258 => "loongarch64",
        other => return format!("machine number {other} of ELF"),
    };
    name.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn elf(order: u8, machine: [u8; 2]) -> Vec<u8> {
        let mut head = vec![0x7f, b'E', b'L', b'F', 2, order, 1];
        head.resize(18, 0);
        head.extend(machine);
        head
    }

    #[test]
    fn text_is_a_script_and_everything_else_is_named() {
        assert_eq!(judge(b"echo hello\n\0"), Rejected::Script);
        assert_eq!(judge(b""), Rejected::Script);
        assert_eq!(judge("echo ä".as_bytes()), Rejected::Script);
        for (head, named) in [
            (elf(1, [183, 0]), "for aarch64"),
            (elf(2, [0, 22]), "for s390x"),
            (elf(1, [99, 0]), "machine number 99"),
            (b"\x7fELF".to_vec(), "an unknown machine"),
            (b"\xef\xbb\xbf#!/bin/sh\n".to_vec(), "byte-order mark"),
            (b"MZ\x90\0\x03\n".to_vec(), "neither a program for this machine nor a script"),
        ] {
            let Rejected::Other(text) = judge(&head) else { panic!("{named}") };
            assert!(text.contains(named), "{text}");
        }
    }
}
