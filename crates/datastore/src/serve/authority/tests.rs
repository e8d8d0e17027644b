#![allow(clippy::unwrap_used)]

use super::*;

/// RFC 7541, C.4.1: a request for `www.example.com`, the name in Huffman's code.
const HUFFMAN: &[u8] =
    &[0x82, 0x86, 0x84, 0x41, 0x8c, 0xf1, 0xe3, 0xc2, 0xe5, 0xf2, 0x3a, 0x6b, 0xa0, 0xab, 0x90, 0xf4, 0xff];
/// The same with fifteen other characters.
const REWRITTEN: &[u8] = b"\x82\x86\x84\x41\x0fxxxxxxxxxxxxxxx";

fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
    let [_, high, middle, low] = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut frame = vec![high, middle, low, kind, flags, 0, 0, 0, 1];
    frame.extend_from_slice(payload);
    frame
}

/// What comes out of the preface and these frames, whatever the pieces that they arrive in.
fn passed(frames: &[Vec<u8>]) -> Vec<u8> {
    let mut stream = vec![b'P'; PREFACE];
    stream.extend(frames.concat());
    let outs = [1, 2, 7, 4096].map(|size| {
        let (mut filter, mut out) = (Filter::default(), Vec::new());
        for piece in stream.chunks(size) {
            filter.pass(piece, &mut out);
        }
        out
    });
    assert!(outs.iter().all(|out| *out == outs[0]));
    assert_eq!(outs[0][..PREFACE], stream[..PREFACE]);
    outs[0][PREFACE..].to_vec()
}

#[test]
fn a_name_is_overwritten_by_one_as_long() {
    assert_eq!(rewritten(HUFFMAN), REWRITTEN);
    let plain = b"\x82\x41\x0b/run/socket\x84\x40\x01a\x01b";
    assert_eq!(rewritten(plain), b"\x82\x41\x0bxxxxxxxxxxx\x84\x40\x01a\x01b", "what follows is kept");
    for kind in [0x01, 0x11] {
        let never_indexed = [&[kind, 0x02], b"/a".as_slice()].concat();
        assert_eq!(rewritten(&never_indexed), [&[kind, 0x02], b"xx".as_slice()].concat());
    }
    assert_eq!(rewritten(b"\x3f\xe1\x1f\x41\x01/"), b"\x3f\xe1\x1f\x41\x01x", "after a change of the table's size");
    // A name of 200 characters: its length takes two bytes.
    let long = [&[0x41, 0x7f, 73], [b'/'; 200].as_slice()].concat();
    assert_eq!(rewritten(&long), [&[0x41, 0x7f, 73], [b'x'; 200].as_slice()].concat());
}

#[test]
fn what_is_not_understood_passes_untouched() {
    for block in
        [b"\x41\x05/a".as_slice(), b"\x41", b"\x41\x81\x00\x7f\xff\xff\xff\xff\xff", b"\x41\x84\xff\xff\xff\xff", b""]
    {
        assert_eq!(rewritten(block), block);
    }
    // No name, but other literals.
    assert_eq!(rewritten(b"\x44\x04/k/v\x00\x01a\x01/"), b"\x44\x04/k/v\x00\x01a\x01/");
}

#[test]
fn only_frames_of_headers_are_touched() {
    let data = frame(0, 0, HUFFMAN);
    let empty = frame(4, 1, b"");
    let out = passed(&[empty.clone(), frame(1, 4, HUFFMAN), data.clone(), frame(1, 4, HUFFMAN), empty.clone()]);
    let headers = frame(1, 4, REWRITTEN);
    assert_eq!(out, [empty.clone(), headers.clone(), data, headers, empty].concat());
}

#[test]
fn padding_and_priority_stay() {
    let padded = [&[3, 9, 9, 9, 9, 9], HUFFMAN, &[0, 0, 0]].concat();
    let expected = [&[3, 9, 9, 9, 9, 9], REWRITTEN, &[0, 0, 0]].concat();
    assert_eq!(passed(&[frame(1, PADDED | PRIORITY | 4, &padded)]), frame(1, PADDED | PRIORITY | 4, &expected));
    for payload in [b"".as_slice(), b"\xc8", b"\x01"] {
        let senseless = frame(1, PADDED | PRIORITY, payload);
        assert_eq!(passed(std::slice::from_ref(&senseless)), senseless);
    }
}

#[test]
fn characters_of_the_code_are_counted() {
    assert_eq!(huffman_characters(&HUFFMAN[5..]), Some(15));
    // RFC 7541, C.6.1: a date, and an address with a colon and slashes.
    let date = [
        0xd0, 0x7a, 0xbe, 0x94, 0x10, 0x54, 0xd4, 0x44, 0xa8, 0x20, 0x05, 0x95, 0x04, 0x0b, 0x81, 0x66, 0xe0, 0x82,
        0xa6, 0x2d, 0x1b, 0xff,
    ];
    assert_eq!(huffman_characters(&date), Some("Mon, 21 Oct 2013 20:13:21 GMT".len()));
    let address =
        [0x9d, 0x29, 0xad, 0x17, 0x18, 0x63, 0xc7, 0x8f, 0x0b, 0x97, 0xc8, 0xe9, 0xae, 0x82, 0xae, 0x43, 0xd3];
    assert_eq!(huffman_characters(&address), Some("https://www.example.com".len()));
    assert_eq!(huffman_characters(&[]), Some(0));
    assert_eq!(huffman_characters(&[0xff]), None, "padding of a whole byte");
}
