//! Masking (RFC 6455 §5.3): payload XOR a repeated four-byte key, the same way in and out.

/// Masks or unmasks `data`, whose first byte meets the first byte of `key`.
pub(super) fn apply(data: &mut [u8], key: [u8; 4]) {
    let [a, b, c, d] = key;
    let wide_key = u64::from_ne_bytes([a, b, c, d, a, b, c, d]);
    let (words, tail) = data.as_chunks_mut::<8>();
    for word in words {
        *word = (u64::from_ne_bytes(*word) ^ wide_key).to_ne_bytes();
    }
    for (byte, key) in tail.iter_mut().zip(key.iter().cycle()) {
        *byte ^= key;
    }
}

/// The key for the bytes that follow the first `consumed` ones.
pub(super) fn advance(mut key: [u8; 4], consumed: usize) -> [u8; 4] {
    key.rotate_left(consumed % 4);
    key
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_byte_meets_the_key_byte_of_its_place(
            data in proptest::collection::vec(any::<u8>(), 0..100),
            key: [u8; 4],
            split in 0_usize..100,
        ) {
            let expected: Vec<u8> =
                data.iter().enumerate().map(|(at, byte)| byte ^ key[at % 4]).collect();
            let mut masked = data.clone();
            let (front, back) = masked.split_at_mut(split.min(data.len()));
            apply(front, key);
            apply(back, advance(key, front.len()));
            prop_assert_eq!(masked, expected);
        }
    }
}
