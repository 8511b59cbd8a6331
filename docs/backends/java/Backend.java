import com.sun.net.httpserver.HttpExchange;
import com.sun.net.httpserver.HttpServer;
import java.io.IOException;
import java.net.InetSocketAddress;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.time.Instant;
import java.util.List;
import java.util.Map;
import java.util.concurrent.Executors;

/** A backend behind Fanlight: says who may connect, answers messages, publishes, mints tokens. */
final class Backend {
    private static final Map<String, String> ENV = System.getenv();

    static Object answer(Object event) throws IOException, InterruptedException {
        Object user = Json.get(event, "user");
        switch (String.valueOf(Json.get(event, "type"))) {
            case "connect":
                boolean welcome = user != null && !user.equals("mallory");
                return welcome ? Map.of("allow", true) : Map.of("allow", false, "reason", "not welcome");
            case "message":
                Object text = Json.get(Json.get(event, "data"), "text");
                // To all by the server API, under the webhook's own id: a retry publishes nothing twice.
                var greeting = Map.of("from", user, "text", text);
                String key = Json.get(event, "id").toString();
                Fanlight.publish(ENV.get("GATEWAY_API"), ENV.get("API_KEY"), "/topic/greetings", greeting, key);
                // To the session that sent it, as the answer.
                var reply = Map.of("to", "/user/queue/replies", "only", "session", "data", Map.of("heard", text));
                return Map.of("send", List.of(reply));
            default:
                return Map.of();
        }
    }

    static void webhook(HttpExchange exchange) throws IOException {
        byte[] body = exchange.getRequestBody().readAllBytes();
        var headers = exchange.getRequestHeaders();
        boolean genuine = Fanlight.isGenuine(
            headers.getFirst("webhook-id"), headers.getFirst("webhook-timestamp"),
            headers.getFirst("webhook-signature"), body, ENV.get("WEBHOOK_SECRET"), Instant.now());
        if (!genuine) {
            respond(exchange, 401, "no good signature");
            return;
        }
        try {
            Object event = Json.read(new String(body, StandardCharsets.UTF_8));
            respond(exchange, 200, Json.write(answer(event)));
        } catch (IOException | InterruptedException error) {
            // The sender is told that it did not work.
            respond(exchange, 503, error.toString());
        }
    }

    static void token(HttpExchange exchange) throws IOException {
        // A real one asks who is there.
        String user = exchange.getRequestURI().getQuery().replace("user=", "");
        respond(exchange, 200, Fanlight.mintToken(user, Map.of(), Duration.ofHours(1), ENV.get("JWT_SECRET")));
    }

    static void respond(HttpExchange exchange, int status, String text) throws IOException {
        byte[] bytes = text.getBytes(StandardCharsets.UTF_8);
        exchange.sendResponseHeaders(status, bytes.length);
        exchange.getResponseBody().write(bytes);
        exchange.close();
    }

    public static void main(String[] args) throws IOException {
        var address = new InetSocketAddress("127.0.0.1", Integer.parseInt(ENV.get("PORT")));
        var server = HttpServer.create(address, 0);
        server.createContext("/fanlight", Backend::webhook);
        server.createContext("/token", Backend::token);
        server.setExecutor(Executors.newCachedThreadPool());
        server.start();
    }
}
