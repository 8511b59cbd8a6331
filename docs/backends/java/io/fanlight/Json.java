package io.fanlight;

import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.stream.Collectors;

/**
 * JSON as maps, lists, strings, doubles, booleans and nulls, because the JDK has none. Use Jackson,
 * or what your framework brings, where you have it.
 */
public final class Json {
    private static final int DEPTH_MAX = 64;
    private final String text;
    private int at;
    private int depth;

    private Json(String text) {
        this.text = text;
    }

    /** Reads a text; an IllegalArgumentException says where it is no JSON. */
    public static Object read(String text) {
        Json json = new Json(text);
        Object value = json.value();
        json.blanks();
        if (json.at < text.length()) throw json.wrong();
        return value;
    }

    /** An object's member, or null. */
    public static Object get(Object value, String name) {
        return value instanceof Map<?, ?> map ? map.get(name) : null;
    }

    public static String write(Object value) {
        if (value == null || value instanceof Boolean || value instanceof Number) return String.valueOf(value);
        if (value instanceof Map<?, ?> map) {
            // In one order, so that what is sent again by another process has the same bytes.
            return map.entrySet().stream()
                .map(each -> quoted(each.getKey().toString()) + ":" + write(each.getValue()))
                .sorted()
                .collect(Collectors.joining(",", "{", "}"));
        }
        if (value instanceof Iterable<?> list) {
            var items = new ArrayList<String>();
            list.forEach(each -> items.add(write(each)));
            return "[" + String.join(",", items) + "]";
        }
        return quoted(value.toString());
    }

    private static String quoted(String text) {
        return text.chars()
            .mapToObj(c -> c == '"' || c == '\\' ? "\\" + (char) c
                : c < ' ' ? String.format("\\u%04x", c)
                : String.valueOf((char) c))
            .collect(Collectors.joining("", "\"", "\""));
    }

    private Object value() {
        blanks();
        if (++depth > DEPTH_MAX) throw wrong();
        Object value = switch (peek()) {
            case '{' -> object();
            case '[' -> list();
            case '"' -> string();
            case 't' -> word("true", true);
            case 'f' -> word("false", false);
            case 'n' -> word("null", null);
            default -> number();
        };
        depth--;
        return value;
    }

    private Map<String, Object> object() {
        var map = new LinkedHashMap<String, Object>();
        for (boolean more = opens('}'); more; more = goesOn('}')) {
            blanks();
            String name = string();
            blanks();
            take(':');
            map.put(name, value());
        }
        return map;
    }

    private List<Object> list() {
        var list = new ArrayList<>();
        for (boolean more = opens(']'); more; more = goesOn(']')) list.add(value());
        return list;
    }

    /** Takes the bracket; whether anything comes before the closing one. */
    private boolean opens(char end) {
        at++;
        blanks();
        if (peek() != end) return true;
        at++;
        return false;
    }

    private boolean goesOn(char end) {
        blanks();
        if (peek() == end) {
            at++;
            return false;
        }
        take(',');
        return true;
    }

    private String string() {
        take('"');
        var out = new StringBuilder();
        for (char c = next(); c != '"'; c = next()) {
            if (c < ' ') throw wrong();
            out.append(c == '\\' ? escaped() : c);
        }
        return out.toString();
    }

    private char escaped() {
        char c = next();
        int plain = "\"\\/bfnrt".indexOf(c);
        if (plain >= 0) return "\"\\/\b\f\n\r\t".charAt(plain);
        if (c != 'u' || at + 4 > text.length()) throw wrong();
        at += 4;
        return (char) Integer.parseInt(text.substring(at - 4, at), 16);
    }

    private Double number() {
        int start = at;
        while (at < text.length() && "+-.eE0123456789".indexOf(text.charAt(at)) >= 0) at++;
        // A NumberFormatException is an IllegalArgumentException too.
        return Double.valueOf(text.substring(start, at));
    }

    private Object word(String word, Object value) {
        if (!text.startsWith(word, at)) throw wrong();
        at += word.length();
        return value;
    }

    private void blanks() {
        while (at < text.length() && " \t\r\n".indexOf(text.charAt(at)) >= 0) at++;
    }

    private char peek() {
        if (at >= text.length()) throw wrong();
        return text.charAt(at);
    }

    private char next() {
        char c = peek();
        at++;
        return c;
    }

    private void take(char expected) {
        if (next() != expected) throw wrong();
    }

    private IllegalArgumentException wrong() {
        return new IllegalArgumentException("no JSON at character " + at);
    }
}
