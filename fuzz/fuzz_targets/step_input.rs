#![no_main]
//! Input of a step: what is accepted has one spelling.
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let spec = r#"{"kind":"static","inputs":2000,"outputs":5,"input_bits":3,"accumulator_bits":14,"output_bits":9,"ring":"n1024-q32","inputs_per_polynomial":1024,"body_bits":21,"switch_bits":13}"#;
    let graph: chemxor_core::StepGraph = serde_json::from_str(&format!("[{spec}]")).unwrap();
    let shape = chemxor_fhe::wire::StepShape::new(&graph.steps()[0], true).unwrap();
    if let Ok((seed, bodies)) = chemxor_fhe::wire::decode_input::<u32>(&shape, bytes) {
        assert_eq!(
            chemxor_fhe::wire::encode_input(&shape, &seed, &bodies),
            bytes
        );
    }
});
