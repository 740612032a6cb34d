//! Secret sharing (Shamir, "How to share a secret", 1979): of n shares any k give the secret, and fewer say nothing.
//!
//! Each byte is a polynomial of degree k − 1 over GF(2⁸) with the polynomial of AES, whose value at 0 is the byte; share x
//! has its value at x. Multiplication takes the same steps whatever the numbers are.

use zeroize::Zeroizing;

/// The most shares: their numbers fit four bits.
pub const SHARES_MAX: u8 = 15;

/// Splits `secret` into shares 1 to `shares`, of which `needed` give it back: 2 ≤ `needed` ≤ `shares` ≤ [`SHARES_MAX`].
pub(super) fn split(secret: &[u8], needed: u8, shares: u8) -> Vec<Zeroizing<Vec<u8>>> {
    assert!(2 <= needed && needed <= shares && shares <= SHARES_MAX);
    let mut coefficients = Zeroizing::new(vec![0; secret.len() * usize::from(needed - 1)]);
    getrandom::fill(&mut coefficients).expect("the operating system gives random bytes");
    split_with(secret, &coefficients, shares)
}

fn split_with(secret: &[u8], coefficients: &[u8], shares: u8) -> Vec<Zeroizing<Vec<u8>>> {
    let degree = coefficients.len() / secret.len();
    let share = |x: u8| {
        let bytes = secret.iter().zip(coefficients.chunks_exact(degree));
        // Horner's rule, from the highest coefficient down to the secret.
        Zeroizing::new(bytes.map(|(byte, higher)| evaluate(*byte, higher, x)).collect())
    };
    (1..=shares).map(share).collect()
}

fn evaluate(constant: u8, higher: &[u8], x: u8) -> u8 {
    higher.iter().rev().fold(0, |sum, coefficient| multiply(sum ^ coefficient, x)) ^ constant
}

/// The secret of shares with different numbers, all as long as the first. Too few, or a wrong one, give something else.
pub(super) fn combine(shares: &[(u8, &[u8])]) -> Zeroizing<Vec<u8>> {
    let length = shares.first().map_or(0, |(_, share)| share.len());
    let mut secret = Zeroizing::new(vec![0; length]);
    for (x, share) in shares {
        // Lagrange's polynomial of this share at 0; in this field minus is plus.
        let others = shares.iter().map(|(other, _)| *other).filter(|other| other != x);
        let weight = others.fold(1, |weight, other| multiply(weight, multiply(other, inverse(other ^ x))));
        secret.iter_mut().zip(share.iter()).for_each(|(sum, byte)| *sum ^= multiply(weight, *byte));
    }
    secret
}

fn multiply(mut a: u8, b: u8) -> u8 {
    let mut product = 0;
    for bit in 0..8 {
        product ^= a & 0_u8.wrapping_sub(b >> bit & 1);
        a = a << 1 ^ (0x1b & 0_u8.wrapping_sub(a >> 7));
    }
    product
}

/// a²⁵⁴, which is 1/a.
fn inverse(a: u8) -> u8 {
    let mut power = a;
    (0..6).for_each(|_| power = multiply(multiply(power, power), a));
    multiply(power, power)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// From draft-mcgrew-tss-03, "Threshold Secret Sharing", section 9.
    #[test]
    fn published_vector() {
        let secret = b"test\0";
        let shares = [[0xb9, 0xfa, 0x07, 0xe1, 0x85], [0xf5, 0x40, 0x9b, 0x45, 0x11]];
        assert_eq!(combine(&[(1, &shares[0]), (2, &shares[1])]).as_slice(), secret);
        let coefficients: Vec<u8> = secret.iter().zip(shares[0]).map(|(byte, share)| byte ^ share).collect();
        let again = split_with(secret, &coefficients, 2);
        assert_eq!(again.iter().map(|share| share.to_vec()).collect::<Vec<_>>(), shares);
    }

    /// FIPS 197, sections 4.2 and 4.2.1, and what a field is.
    #[test]
    fn the_field_is_that_of_aes() {
        assert_eq!((multiply(0x57, 0x83), multiply(0x57, 0x13), multiply(0x57, 0x10)), (0xc1, 0xfe, 0x07));
        assert!((1..=255).all(|a| multiply(a, inverse(a)) == 1));
    }

    #[test]
    fn any_so_many_give_the_secret() {
        let secret: Vec<u8> = (0..=255).collect();
        for shares in 2..=6 {
            for needed in 2..=shares {
                let split = split(&secret, needed, shares);
                for chosen in 0_u32..1 << shares {
                    let given: Vec<(u8, &[u8])> = (0..shares)
                        .filter(|at| chosen >> at & 1 == 1)
                        .map(|at| (at + 1, split[usize::from(at)].as_slice()))
                        .collect();
                    let is_enough = given.len() >= usize::from(needed);
                    assert_eq!(*combine(&given) == secret, is_enough, "{needed} of {shares}: {chosen:b}");
                }
            }
        }
        let most = split(b"x", SHARES_MAX, SHARES_MAX);
        let given: Vec<(u8, &[u8])> = (1..).zip(&most).map(|(at, share)| (at, share.as_slice())).collect();
        assert_eq!(combine(&given).as_slice(), b"x");
    }

    /// Over all coefficients, a share takes every value as often, whatever the secret is.
    #[test]
    fn fewer_say_nothing() {
        for secret in [0, 1, 0x80, 0xff] {
            for share in 0..3 {
                let mut seen = [0; 256];
                for coefficient in 0..=255 {
                    let value = split_with(&[secret], &[coefficient], 3)[share][0];
                    seen[usize::from(value)] += 1;
                }
                assert_eq!(seen, [1; 256]);
            }
        }
    }
}
