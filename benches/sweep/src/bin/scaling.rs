//! Speed against threads.

fn main() -> anyhow::Result<()> {
    lanenorm_sweep::scaling::main()
}
