package io.fanlight.examples.relay;

/** What is said, and by whom. */
public record Note(String from, String text) {}
