//! What cryptography costs: sealing and opening sectors, hashing them alone and side by side, signatures.

use std::hint::black_box;

use blocktree_engine::crypto::{
    ExtentKey, Principal, Secret, hash, hash_sectors, open_sectors, seal_sectors, verify,
};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

const SECTOR: usize = 4096;

fn sectors(count: usize) -> Vec<u8> {
    (0..count * SECTOR).map(|at| (at.wrapping_mul(2_654_435_761) >> 7) as u8).collect()
}

fn ciphers(criterion: &mut Criterion) {
    let key = ExtentKey::derive(&Secret::new([7; 32]), &[1; 16]);
    for count in [1, 8, 32] {
        let mut bytes = sectors(count);
        let mut group = criterion.benchmark_group("sectors");
        group.throughput(Throughput::Bytes(bytes.len() as u64));
        group.bench_function(BenchmarkId::new("seal", count), |bencher| {
            bencher.iter(|| seal_sectors(&key, 0, black_box(&mut bytes)));
        });
        group.bench_function(BenchmarkId::new("open", count), |bencher| {
            bencher.iter(|| open_sectors(&key, 0, black_box(&mut bytes)));
        });
        group.bench_function(BenchmarkId::new("hash", count), |bencher| {
            bencher.iter(|| hash_sectors(black_box(&bytes)));
        });
        group.finish();
    }
    criterion.bench_function("derive an extent's key", |bencher| {
        let secret = Secret::new([7; 32]);
        bencher.iter(|| ExtentKey::derive(black_box(&secret), &[1; 16]));
    });
}

fn signatures(criterion: &mut Criterion) {
    let (principal, digest) = (Principal::generate(), hash(b"a record"));
    let (public, signature) = (principal.public(), principal.sign(&digest));
    criterion.bench_function("sign", |bencher| bencher.iter(|| principal.sign(black_box(&digest))));
    criterion.bench_function("verify", |bencher| {
        bencher.iter(|| assert!(verify(&public.signing, black_box(&digest), &signature)));
    });
}

criterion_group!(benches, ciphers, signatures);
criterion_main!(benches);
