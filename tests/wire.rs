//! The wire protocol, shown from outside: each row of the document next to the code, what every value may
//! be, and what no input can do. Whoever changes a line on the wire changes a line here.

#[cfg(test)]
mod wire {
    mod edges;
    mod lines;
    mod properties;
    mod strategies;
    mod table;
    mod values;
    mod variants;
}
