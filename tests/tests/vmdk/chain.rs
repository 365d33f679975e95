//! A reference model: random writes through random chains of random kinds, read back.

use proptest::collection::vec;
use proptest::prelude::*;
use vcb_block::conformance;
use vcb_fixtures::vmdk::{Chain, Content, Directory, Grain, Kind, Model, Order, SECTOR};
use vcb_tests::disks::Files;
use vcb_vmdk::OpenOptions;

/// One link: what a guest wrote while it was the leaf.
#[derive(Debug, Clone)]
struct Link {
    kind: Kind,
    order: Order,
    /// First sector and length as fractions of the disk (of 2^16), and a seed.
    writes: Vec<(u16, u16, u64)>,
}

fn base_kind() -> impl Strategy<Value = Kind> {
    prop_oneof![
        Just(Kind::MonolithicFlat),
        Just(Kind::Vmfs),
        Just(Kind::MonolithicSparse),
        Just(Kind::TwoGbFlat { split: 1024 }),
        Just(Kind::TwoGbSparse { split: 1024 }),
        Just(Kind::StreamOptimized(Directory::AtEnd)),
        Just(Kind::StreamOptimized(Directory::InFront)),
    ]
}

fn delta_kind() -> impl Strategy<Value = Kind> {
    prop_oneof![
        3 => Just(Kind::VmfsSparse),
        3 => Just(Kind::SeSparse),
        1 => Just(Kind::MonolithicSparse),
        1 => Just(Kind::TwoGbSparse { split: 1024 }),
    ]
}

fn order() -> impl Strategy<Value = Order> {
    prop_oneof![
        Just(Order::Logical),
        (any::<u64>(), 1..20u64).prop_map(|(seed, longest)| Order::Shuffled { seed, longest })
    ]
}

fn link() -> impl Strategy<Value = Link> {
    (delta_kind(), order(), vec((any::<u16>(), any::<u16>(), any::<u64>()), 0..6))
        .prop_map(|(kind, order, writes)| Link { kind, order, writes })
}

/// The bytes of a write of at most 1/16 of the disk.
fn write(sectors: u64, (at, len, seed): (u16, u16, u64)) -> (u64, Vec<u8>) {
    let start = (sectors * u64::from(at)) >> 16;
    let count = (1 + ((sectors * u64::from(len)) >> 20)).min(sectors - start);
    let mut bytes = vec![0; (count * SECTOR) as usize];
    // Some guests write zeros.
    if seed % 5 != 0 {
        Content::Noise(seed).fill(&mut bytes, start);
    }
    (start, bytes)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn what_a_guest_wrote_is_read_back(
        sectors in 1..6000u64,
        base in base_kind(),
        base_seed in any::<u64>(),
        links in vec(link(), 0..5),
        cache in prop_oneof![Just(1u64), Just(64 << 10), Just(16 << 20)],
    ) {
        let mut chain = Chain::new("disk");
        let model = if base_seed % 2 == 0 {
            Model::random(sectors, 128, base_seed)
        } else {
            Model::all(sectors, 128, &Grain::Fill(Content::Noise(base_seed)))
        };
        chain.push(base, &model).unwrap();
        for link in &links {
            chain.order = link.order;
            let writes: Vec<_> = link.writes.iter().map(|&drawn| write(sectors, drawn)).collect();
            chain.push_writes(link.kind, &writes).unwrap();
        }
        let mut options = OpenOptions::default();
        options.cache_bytes = cache;
        let disk = Files::of(&chain.folder).disk(chain.leaf(), &options).unwrap();
        conformance::same_bytes(disk.block(), chain.raw(), base_seed);
        conformance::check(disk.block(), base_seed);
    }

    #[test]
    fn grains_of_every_sort_are_told_apart(
        sectors in 1..20_000u64,
        base in base_kind(),
        kinds in vec((delta_kind(), order(), any::<u64>()), 1..4),
    ) {
        let mut chain = Chain::new("disk");
        chain.push(base, &Model::random(sectors, 128, 1)).unwrap();
        for &(kind, order, seed) in &kinds {
            chain.order = order;
            chain.push(kind, &Model::random(sectors, kind.grain_sectors(), seed)).unwrap();
        }
        let disk = Files::of(&chain.folder).disk(chain.leaf(), &OpenOptions::default()).unwrap();
        conformance::same_bytes(disk.block(), chain.raw(), 1);
    }
}
