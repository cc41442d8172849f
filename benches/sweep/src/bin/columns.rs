//! Speed against columns.

fn main() -> anyhow::Result<()> {
    lanenorm_sweep::columns::main()
}
