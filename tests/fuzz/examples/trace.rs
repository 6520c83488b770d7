use mailtee_fuzz::{drive, chunked, wire::smtp::{Dialect, Role}};
fn main() {
    let said = std::fs::read(std::env::args().nth(1).unwrap()).unwrap();
    let (size, said) = chunked(&said);
    for role in [Role::Filter, Role::Proxy] { for size in [size, usize::MAX] {
        eprintln!("--- {role:?} {size}");
        let s = drive::session(drive::rules(Dialect::Smtp, role), said, size);
        eprintln!("{}\n{:?}", String::from_utf8_lossy(&s.said), s.copies);
    }}
}
