//! The page on performance, from the records.

fn main() -> anyhow::Result<()> {
    lanenorm_sweep::docs::main()
}
