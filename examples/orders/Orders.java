import com.sun.net.httpserver.HttpExchange;
import com.sun.net.httpserver.HttpServer;
import io.fanlight.Fanlight;
import io.fanlight.Json;
import java.io.IOException;
import java.net.InetSocketAddress;
import java.net.URI;
import java.net.URLDecoder;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.MessageDigest;
import java.time.Duration;
import java.time.Instant;
import java.util.Base64;
import java.util.List;
import java.util.Map;
import java.util.concurrent.Executors;

/** The shop's server: its page, its orders, and Fanlight's question who may watch which of them. */
final class Orders {
    private static final Map<String, String> ENV = System.getenv();
    private static final String TOPIC = "/topic/orders.";
    private static final Map<String, String> PAGES = Map.of(
        "/", "index.html", "/app.js", "app.js", "/web/style.css", ENV.get("WEB") + "/style.css",
        "/web/page.js", ENV.get("WEB") + "/page.js", "/web/native.js", ENV.get("WEB") + "/native.js");

    private final Shop shop;
    private final String webhookSecret = secret("WEBHOOK_SECRET_FILE");
    private final String jwtSecret = secret("JWT_SECRET_FILE");

    record User(String name, boolean isStaff) {}

    /** What is the client's fault, and what it is told. */
    static final class Refusal extends RuntimeException {
        private static final long serialVersionUID = 1;
        final int status;

        Refusal(int status, String message) {
            super(message);
            this.status = status;
        }
    }

    Orders() throws IOException {
        Fanlight.webhookKey(webhookSecret);
        shop = new Shop(Path.of(ENV.get("DATA"), "orders.json"), ENV.get("GATEWAY_API"), secret("API_KEY_FILE"));
    }

    private Object answer(HttpExchange exchange, String path) throws IOException {
        byte[] body = exchange.getRequestBody().readNBytes(100_000);
        boolean posts = exchange.getRequestMethod().equals("POST");
        if (path.equals("/fanlight") && posts) return webhook(exchange, body);
        if (path.equals("/session")) return session(exchange.getRequestURI());
        User user = authenticated(exchange);
        if (path.equals("/orders") && !posts) return shop.list(user.isStaff ? null : user.name);
        if (path.equals("/orders")) {
            String item = text(Json.get(json(body), "item"), "item", 80);
            return shop.place(user.name, item).toJson();
        }
        if (!path.startsWith("/orders/")) throw new Refusal(404, "not found");
        Order order = shop.find(path.substring("/orders/".length()));
        if (order == null || !mayWatch(user.name, user.isStaff, order)) throw new Refusal(403, "not your order");
        if (posts) advance(user, order, text(Json.get(json(body), "to"), "to", 20));
        return order.toJson();
    }

    /** Fanlight asks for each subscription; nobody has to be told who owns what beforehand. */
    private Object webhook(HttpExchange exchange, byte[] body) {
        var headers = exchange.getRequestHeaders();
        boolean genuine = Fanlight.isGenuine(
            headers.getFirst("webhook-id"), headers.getFirst("webhook-timestamp"),
            headers.getFirst("webhook-signature"), body, webhookSecret, Instant.now());
        if (!genuine) throw new Refusal(401, "no good signature");
        Object event = json(body);
        if (!"subscribe".equals(Json.get(event, "type"))) return Map.of();
        String destination = String.valueOf(Json.get(event, "destination"));
        Order order = destination.startsWith(TOPIC) ? shop.find(destination.substring(TOPIC.length())) : null;
        boolean isStaff = Json.get(event, "roles") instanceof List<?> roles && roles.contains("staff");
        // Whether there is such an order is nobody else's concern either.
        return order != null && mayWatch(Json.get(event, "user"), isStaff, order)
            ? Map.of("allow", true)
            : Map.of("allow", false, "reason", "not your order");
    }

    private static boolean mayWatch(Object user, boolean isStaff, Order order) {
        return isStaff || order.customer.equals(user);
    }

    private void advance(User user, Order order, String name) throws IOException {
        Order.State to;
        try {
            to = Order.State.of(name);
        } catch (IllegalArgumentException unknown) {
            throw new Refusal(400, "no such state");
        }
        boolean may = to.isUpToTheCustomer() ? order.customer.equals(user.name) : user.isStaff;
        if (!may) throw new Refusal(403, "that is not for you to do");
        if (!shop.advance(order, to)) throw new Refusal(409, "an order that is " + order.state() + " can't be " + to);
    }

    /** A real application would ask for a password here, and know who works there. */
    private Object session(URI uri) {
        String user = parameter(uri, "user");
        if (!user.matches("[\\p{L}\\p{N}._-]{1,32}")) {
            throw new Refusal(400, "a name has 1 to 32 letters, digits, `.`, `_` or `-`");
        }
        List<String> roles = parameter(uri, "role").equals("staff") ? List.of("staff") : List.of();
        String token = Fanlight.mintToken(user, Map.of("roles", roles), Duration.ofHours(1), jwtSecret);
        return Map.of("user", user, "token", token, "gateway", ENV.get("GATEWAY"));
    }

    /** Whose token it is: one of ours that is still good. */
    private User authenticated(HttpExchange exchange) {
        String header = String.valueOf(exchange.getRequestHeaders().getFirst("authorization"));
        String[] parts = header.replaceFirst("^Bearer ", "").split("\\.");
        if (parts.length != 3) throw new Refusal(401, "no token");
        byte[] expected = Fanlight.hmac(jwtSecret.getBytes(), (parts[0] + "." + parts[1]).getBytes());
        try {
            if (!MessageDigest.isEqual(Base64.getUrlDecoder().decode(parts[2]), expected)) {
                throw new Refusal(401, "no good token");
            }
        } catch (IllegalArgumentException error) {
            throw new Refusal(401, "no good token");
        }
        Object claims = json(Base64.getUrlDecoder().decode(parts[1]));
        if ((Double) Json.get(claims, "exp") < System.currentTimeMillis() / 1000.0) {
            throw new Refusal(401, "the token has expired");
        }
        boolean isStaff = Json.get(claims, "roles") instanceof List<?> roles && roles.contains("staff");
        return new User((String) Json.get(claims, "sub"), isStaff);
    }

    private void handle(HttpExchange exchange) throws IOException {
        String path = exchange.getRequestURI().getPath();
        try {
            if (PAGES.containsKey(path)) {
                sendPage(exchange, Path.of(PAGES.get(path)));
                return;
            }
            byte[] json = Json.write(answer(exchange, path)).getBytes(StandardCharsets.UTF_8);
            respond(exchange, 200, "application/json", json);
        } catch (Refusal refusal) {
            byte[] text = refusal.getMessage().getBytes(StandardCharsets.UTF_8);
            respond(exchange, refusal.status, "text/plain; charset=utf-8", text);
        } catch (RuntimeException error) {
            error.printStackTrace();
            respond(exchange, 500, "text/plain", "a fault of the server".getBytes());
        } finally {
            exchange.close();
        }
    }

    private static void sendPage(HttpExchange exchange, Path file) throws IOException {
        String name = file.toString();
        String type = name.endsWith(".js") ? "text/javascript" : name.endsWith(".css") ? "text/css" : "text/html";
        String gateway = "ws://" + URI.create(ENV.get("GATEWAY")).getAuthority();
        String policy = "default-src 'self'; img-src data:; connect-src 'self' " + gateway;
        exchange.getResponseHeaders().set("content-security-policy", policy);
        respond(exchange, 200, type + "; charset=utf-8", Files.readAllBytes(file));
    }

    private static void respond(HttpExchange exchange, int status, String type, byte[] body) throws IOException {
        exchange.getResponseHeaders().set("content-type", type);
        exchange.getResponseHeaders().set("cache-control", "no-store");
        exchange.sendResponseHeaders(status, body.length);
        exchange.getResponseBody().write(body);
    }

    private static Object json(byte[] body) {
        try {
            return Json.read(new String(body, StandardCharsets.UTF_8));
        } catch (IllegalArgumentException error) {
            throw new Refusal(400, error.getMessage());
        }
    }

    private static String text(Object value, String name, int max) {
        if (value instanceof String text && !text.isBlank() && text.length() <= max) return text;
        throw new Refusal(400, "`" + name + "` has 1 to " + max + " characters");
    }

    private static String parameter(URI uri, String name) {
        String query = String.valueOf(uri.getRawQuery());
        for (String pair : query.split("&")) {
            if (pair.startsWith(name + "=")) {
                return URLDecoder.decode(pair.substring(name.length() + 1), StandardCharsets.UTF_8);
            }
        }
        return "";
    }

    private static String secret(String variable) {
        try {
            return Files.readString(Path.of(ENV.get(variable))).strip();
        } catch (IOException error) {
            throw new IllegalStateException(variable, error);
        }
    }

    public static void main(String[] args) throws IOException {
        var address = new InetSocketAddress("127.0.0.1", Integer.parseInt(ENV.get("PORT")));
        var server = HttpServer.create(address, 0);
        server.createContext("/", new Orders()::handle);
        server.setExecutor(Executors.newCachedThreadPool());
        server.start();
        System.out.println("orders at http://127.0.0.1:" + address.getPort());
    }
}
