//! Bytes as words that people can write down: BIP 39 (<https://github.com/bitcoin/bips/blob/master/bip-0039.mediawiki>).
//!
//! Eleven bits are a word of a list of 2048, which are told apart by their first four letters. Behind the bytes stand the
//! first bits of their SHA-256, one for each 32 bits. BIP 39 is for 16 to 32 bytes; here up to 64 are written the same way.
//!
//! `english.txt` is the list of BIP 39, in its own order, which is the alphabet's.

use aws_lc_rs::digest::{SHA256, digest};
use zeroize::Zeroizing;

/// The longest secret that is written as words, in bytes; any length is a multiple of four.
pub const WORDS_BYTES_MAX: usize = 64;
const LIST: &str = include_str!("english.txt");
const LIST_WORDS: usize = 2048;
/// Words of four bytes and their check bit.
const WORDS_STEP: usize = 3;
/// A longer text holds no such words.
const TEXT_BYTES_MAX: usize = 4096;

/// Why words are no secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WordsError {
    #[error("there are {0} words, and no list of words has as many: some are missing or too many")]
    Count(usize),
    #[error("word {0} is not in the list of words")]
    Unknown(usize),
    #[error("the check sum does not fit: a word is wrong, or two were exchanged")]
    CheckSum,
}

/// The words of a secret, whose length is a multiple of four bytes.
pub fn to_words(secret: &[u8]) -> Vec<&'static str> {
    assert!(secret.len().is_multiple_of(4) && (4..=WORDS_BYTES_MAX).contains(&secret.len()));
    let list: Vec<&str> = LIST.lines().collect();
    let bytes = with_check(secret);
    let count = secret.len() / 4 * WORDS_STEP;
    (0..count)
        .map(|word| list[(0..11).fold(0, |index, at| index << 1 | bit(&bytes, 11 * word + at))])
        .collect()
}

/// The secret of words, in large or small letters, between spaces or newlines; of each the first four letters are enough.
/// Numbers, with or without a dot behind them, are passed over.
pub fn from_words(text: &str) -> Result<Zeroizing<Vec<u8>>, WordsError> {
    let text =
        Zeroizing::new(text.get(..text.len().min(TEXT_BYTES_MAX)).unwrap_or_default().to_ascii_lowercase());
    let list: Vec<&str> = LIST.lines().collect();
    let is_number = |word: &str| word.trim_end_matches('.').chars().all(|letter| letter.is_ascii_digit());
    let mut words = text.split_whitespace().filter(|word| !is_number(word));
    let count = words.clone().count();
    if count == 0 || !count.is_multiple_of(WORDS_STEP) || count / WORDS_STEP * 4 > WORDS_BYTES_MAX {
        return Err(WordsError::Count(count));
    }
    let length = count / WORDS_STEP * 4;
    let mut bytes = Zeroizing::new(vec![0_u8; length + length.div_ceil(32)]);
    for place in 0..count {
        let word = words.next().unwrap_or_default();
        let is_meant = |known: &&str| *known == word || (word.len() == 4 && known.starts_with(word));
        // The first four letters of a word are those of no other.
        let index = list.iter().position(is_meant).ok_or(WordsError::Unknown(place + 1))?;
        for at in 0..11 {
            if index >> (10 - at) & 1 == 1 {
                let bit = 11 * place + at;
                bytes[bit / 8] |= 0x80 >> (bit % 8);
            }
        }
    }
    let expected = with_check(&bytes[..length]);
    if *bytes != *expected {
        return Err(WordsError::CheckSum);
    }
    bytes.truncate(length);
    Ok(bytes)
}

/// The secret, then its check bits, then zeros up to a byte.
fn with_check(secret: &[u8]) -> Zeroizing<Vec<u8>> {
    let bits = secret.len() / 4;
    let check = digest(&SHA256, secret);
    let mut bytes = Zeroizing::new(Vec::with_capacity(secret.len() + bits.div_ceil(8)));
    bytes.extend_from_slice(secret);
    bytes.extend_from_slice(&check.as_ref()[..bits.div_ceil(8)]);
    if !bits.is_multiple_of(8) {
        let last = bytes.len() - 1;
        bytes[last] &= !(0xff >> (bits % 8));
    }
    bytes
}

fn bit(bytes: &[u8], at: usize) -> usize {
    usize::from(bytes[at / 8] >> (7 - at % 8) & 1)
}

const _: () = assert!(LIST_WORDS == 1 << 11);

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(hexadecimal: &str) -> Vec<u8> {
        let digits: Vec<u8> =
            hexadecimal.chars().map(|digit| digit.to_digit(16).expect("a digit") as u8).collect();
        digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
    }

    /// From <https://github.com/trezor/python-mnemonic/blob/master/vectors.json>.
    #[test]
    fn published_vectors() {
        let vectors = [
            (
                "00000000000000000000000000000000",
                "abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon about",
            ),
            (
                "7f7f7f7f7f7f7f7f7f7f7f7f7f7f7f7f",
                "legal winner thank year wave sausage worth useful legal winner thank yellow",
            ),
            (
                "ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
                "zoo zoo zoo zoo zoo zoo zoo zoo zoo zoo zoo zoo zoo zoo zoo zoo zoo zoo zoo zoo zoo zoo zoo vote",
            ),
            (
                "f585c11aec520db57dd353c69554b21a89b20fb0650966fa0a9d6f74fd989d8f",
                "void come effort suffer camp survey warrior heavy shoot primary clutch crush open amazing screen \
                 patrol group space point ten exist slush involve unfold",
            ),
        ];
        for (secret, words) in vectors {
            assert_eq!(to_words(&bytes(secret)).join(" "), words);
            assert_eq!(from_words(words).unwrap().as_slice(), bytes(secret));
        }
    }

    #[test]
    fn the_list_is_that_of_bip_39() {
        let list: Vec<&str> = LIST.lines().collect();
        assert_eq!(list.len(), LIST_WORDS);
        assert!(list.is_sorted());
        let expected = bytes("2f5eed53a4727b4bf8880d8f3f199efc90e58503646d9ff8eff3a2ed3b24dbda");
        assert_eq!(digest(&SHA256, LIST.as_bytes()).as_ref(), expected);
        // Four letters are enough, and a word of four letters is not the beginning of another.
        let beginnings: std::collections::BTreeSet<&str> =
            list.iter().map(|word| &word[..word.len().min(4)]).collect();
        assert_eq!(beginnings.len(), LIST_WORDS);
    }

    #[test]
    fn every_length_goes_there_and_back_as_people_write_it() {
        for length in (4..=WORDS_BYTES_MAX).step_by(4) {
            let secret: Vec<u8> = (0..length).map(|at| (at * 89 + length) as u8).collect();
            let words = to_words(&secret);
            assert_eq!(words.len(), length / 4 * 3);
            let written: Vec<String> = words
                .iter()
                .enumerate()
                .map(|(at, word)| format!("{:>2}. {}", at + 1, word.to_uppercase()))
                .collect();
            assert_eq!(from_words(&written.join("\n")).unwrap().as_slice(), secret);
            let short: Vec<&str> = words.iter().map(|word| &word[..word.len().min(4)]).collect();
            assert_eq!(from_words(&short.join("  ")).unwrap().as_slice(), secret);
        }
    }

    #[test]
    fn errors_are_noticed() {
        let words = to_words(&[0x5a; 32]);
        assert_eq!(from_words(&words[..23].join(" ")), Err(WordsError::Count(23)));
        assert_eq!(from_words(""), Err(WordsError::Count(0)));
        assert_eq!(from_words(&"zoo ".repeat(2000)).map(drop), Err(WordsError::Count(1024)));
        let mut wrong = words.clone();
        wrong[6] = "blocktree";
        assert_eq!(from_words(&wrong.join(" ")), Err(WordsError::Unknown(7)));
        // Eight bits of check: of other words, one in 256 fits.
        let list: Vec<&str> = LIST.lines().collect();
        let mut unnoticed = 0;
        for other in &list {
            let mut wrong = words.clone();
            wrong[3] = other;
            unnoticed += usize::from(from_words(&wrong.join(" ")).is_ok());
        }
        assert!((1..=24).contains(&unnoticed), "{unnoticed}");
    }
}
