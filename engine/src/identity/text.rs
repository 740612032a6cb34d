//! A principal's public keys as one line of text: `btp1`, then 112 letters.
//!
//! The letters are those of Bech32 (BIP 173), five bits each, which nobody takes for one another: 64 bytes of keys and six
//! of a check sum are 112 of them, to the bit. `1` is the version.

use std::fmt;
use std::str::FromStr;

use crate::crypto::{PublicKeys, tagged_hash};

const PREFIX: &str = "btp";
const VERSION: char = '1';
const LETTERS: &[u8; 32] = b"qpzry9x8gf2tvdw0s3jn54khce6mua7l";
const CHECK_BYTES: usize = 6;
const BYTES: usize = 64 + CHECK_BYTES;
const DIGITS: usize = BYTES * 8 / 5;
const _: () = assert!(DIGITS * 5 == BYTES * 8);

/// Why a text is no principal.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TextError {
    #[error("a principal is written as a line that begins with btp1")]
    Foreign,
    #[error("this principal was written by another version of Blocktree")]
    Version,
    #[error(
        "a principal has {expected} letters behind btp1, and this has {found}: some are missing or too many"
    )]
    Length { expected: usize, found: usize },
    #[error("{0:?} is no letter of a principal: there is a typing error")]
    Letter(char),
    #[error("the check sum does not fit: there is a typing error")]
    CheckSum,
}

impl fmt::Display for PublicKeys {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let keys = self.to_bytes();
        let mut text = format!("{PREFIX}{VERSION}");
        let (mut bits, mut count) = (0_u32, 0);
        for byte in keys.iter().chain(&check_sum(&keys)) {
            bits = bits << 8 | u32::from(*byte);
            count += 8;
            while count >= 5 {
                count -= 5;
                text.push(char::from(LETTERS[(bits >> count & 31) as usize]));
            }
        }
        formatter.write_str(&text)
    }
}

impl FromStr for PublicKeys {
    type Err = TextError;

    /// Spaces around it do not count, nor whether letters are large.
    fn from_str(text: &str) -> Result<Self, TextError> {
        let text = text.trim();
        let is_ours = text.get(..PREFIX.len()).is_some_and(|prefix| prefix.eq_ignore_ascii_case(PREFIX));
        let mut letters = text.chars().skip(PREFIX.len());
        match letters.next().filter(|_| is_ours) {
            Some(VERSION) => {}
            Some('0'..='9') => return Err(TextError::Version),
            _ => return Err(TextError::Foreign),
        }
        let found = letters.clone().count();
        if found != DIGITS {
            return Err(TextError::Length { expected: DIGITS, found });
        }
        let mut bytes = [0; BYTES];
        let (mut bits, mut count, mut at) = (0_u32, 0, 0);
        for letter in letters {
            let lower = letter.to_ascii_lowercase();
            let value = LETTERS.iter().position(|known| char::from(*known) == lower);
            bits = bits << 5 | value.ok_or(TextError::Letter(letter))? as u32;
            count += 5;
            if count >= 8 {
                count -= 8;
                bytes[at] = (bits >> count) as u8;
                at += 1;
            }
        }
        let (keys, check) = bytes.split_at(64);
        let keys = keys.try_into().expect("64 bytes");
        if check != check_sum(keys) {
            return Err(TextError::CheckSum);
        }
        Ok(Self::from_bytes(keys))
    }
}

fn check_sum(keys: &[u8; 64]) -> [u8; CHECK_BYTES] {
    tagged_hash("blocktree principal text v1", &[keys])[..CHECK_BYTES].try_into().expect("a part of a hash")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys() -> PublicKeys {
        PublicKeys::from_bytes(&std::array::from_fn(|at| (at * 37 + 11) as u8))
    }

    #[test]
    fn text_goes_there_and_back() {
        let text = keys().to_string();
        // Fixed: people write it down.
        let fixed = "btp1pvc9275lcn5suv6c0k3v0mq3xedcpfw2au2rjh5r4rxly9euvxr2h584rglkfzdw60up6sn83jcad7eqg44gldxelc35\
                     smvjklwqzf4jqmpg2vfk";
        assert_eq!(text, fixed);
        assert_eq!(text.parse(), Ok(keys()));
        assert_eq!(format!("  {}\n", text.to_uppercase()).parse(), Ok(keys()));
        for byte in [0, 0xff] {
            let keys = PublicKeys::from_bytes(&[byte; 64]);
            assert_eq!(keys.to_string().parse(), Ok(keys));
        }
    }

    #[test]
    fn every_typing_error_is_noticed() {
        let text = keys().to_string();
        for at in 0..text.len() {
            assert!(text[..at].parse::<PublicKeys>().is_err(), "cut at {at}");
            for letter in LETTERS {
                let mut typed = text.clone().into_bytes();
                if typed[at] != *letter {
                    typed[at] = *letter;
                    assert!(String::from_utf8(typed).unwrap().parse::<PublicKeys>().is_err());
                }
            }
            if at + 1 < text.len() && text.as_bytes()[at] != text.as_bytes()[at + 1] {
                let mut typed = text.clone().into_bytes();
                typed.swap(at, at + 1);
                assert!(String::from_utf8(typed).unwrap().parse::<PublicKeys>().is_err());
            }
        }
        let parse = |text: &str| text.parse::<PublicKeys>().unwrap_err();
        assert_eq!(parse("phone"), TextError::Foreign);
        assert_eq!(parse("btp"), TextError::Foreign);
        assert_eq!(parse("ßtp1"), TextError::Foreign);
        assert_eq!(parse(&text.replacen("btp1", "btp2", 1)), TextError::Version);
        assert_eq!(parse(&(text.clone() + "q")), TextError::Length { expected: 112, found: 113 });
        assert_eq!(parse(&text.replace('p', "b").replacen("btb", "btp", 1)), TextError::Letter('b'));
    }
}
