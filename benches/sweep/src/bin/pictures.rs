//! Pictures of records.

fn main() -> anyhow::Result<()> {
    lanenorm_sweep::pictures::main()
}
