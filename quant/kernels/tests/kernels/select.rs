//! Which table is used.

use reweight_kernels::{KernelsError, best, by_name, select, supported};

#[test]
fn every_supported_table_is_found_by_its_name() {
    let names: Vec<_> = supported().iter().map(|kernels| kernels.name).collect();
    assert_eq!(names.first(), Some(&"scalar"));
    for name in names {
        assert_eq!(by_name(name).map(|kernels| kernels.name), Some(name));
        assert_eq!(select(Some(name)).map(|kernels| kernels.name), Ok(name));
    }
    assert!(by_name("sse9").is_none());
}

#[test]
fn a_name_that_is_no_table_is_an_error_with_evidence() {
    let error = select(Some("sse9\u{1b}")).expect_err("no such table");
    assert_eq!(error, KernelsError::Unknown { name: "sse9\u{1b}".to_owned() });
    assert!(!error.to_string().contains('\u{1b}'), "{error}");
    let error = KernelsError::Unsupported { name: "avx512", supported: vec!["scalar", "avx2"] };
    assert_eq!(
        error.to_string(),
        "kernels `avx512` need instructions that this machine lacks: it has `scalar`, `avx2`"
    );
}

#[test]
fn the_variable_decides_where_no_name_is_given() {
    match std::env::var("REWEIGHT_KERNELS") {
        Ok(name) if by_name(&name).is_some() => {
            assert_eq!(
                select(None).map(|kernels| kernels.name),
                by_name(&name).map(|k| k.name).ok_or_else(|| unreachable!())
            );
            assert_eq!(best().name, name);
        }
        Ok(name) if name.is_empty() || name == "auto" => {}
        Ok(_) => {
            assert!(select(None).is_err());
            assert!(supported().iter().any(|kernels| kernels.name == best().name));
        }
        Err(_) => assert_eq!(supported().last().map(|kernels| kernels.name), Some(best().name)),
    }
    assert_eq!(select(Some("auto")).map(|k| k.name), Ok(supported().last().map_or("scalar", |k| k.name)));
}
