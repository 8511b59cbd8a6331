import com.sun.net.httpserver.HttpExchange;
import com.sun.net.httpserver.HttpHandler;
import com.sun.net.httpserver.HttpServer;
import io.fanlight.Fanlight;
import io.fanlight.Json;
import java.io.IOException;
import java.net.InetSocketAddress;
import java.net.URLEncoder;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.time.Instant;
import java.util.List;
import java.util.Map;
import java.util.UUID;
import java.util.concurrent.Executors;

/**
 * A backend behind Fanlight: says who may connect, answers messages, hears of disconnects, pushes to
 * users, mints tokens.
 */
final class Backend {
    private static final Map<String, String> ENV = System.getenv();

    static Object answer(Object event) throws IOException, InterruptedException {
        try {
            return handle(event);
        } catch (Fanlight.Refused refused) {
            // Not this backend's failure: the client is told.
            return Map.of("error", Map.of("code", refused.code, "message", refused.getMessage()));
        }
    }

    static Object handle(Object event) throws IOException, InterruptedException, Fanlight.Refused {
        String id = String.valueOf(Json.get(event, "id"));
        String user = (String) Json.get(event, "user");
        return switch (String.valueOf(Json.get(event, "type"))) {
            case "connect" -> user != null && !user.equals("mallory")
                ? Map.of("allow", true)
                : Map.of("allow", false, "reason", "not welcome");
            case "message" -> greet(id, user, Json.get(event, "data"));
            case "disconnected" -> {
                // Of one session; its user may have others. Told again until this succeeds.
                publish("/topic/greetings", Map.of("left", String.valueOf(user)), id);
                yield Map.of();
            }
            default -> Map.of();
        };
    }

    static Object greet(String id, String user, Object data)
            throws IOException, InterruptedException, Fanlight.Refused {
        if (!(Json.get(data, "text") instanceof String text)) {
            // What is the client's fault is an answer: failures count against this backend.
            return Map.of("error", Map.of("code", "bad_greeting", "message", "`text` is missing"));
        }
        // To all by the server API, under the webhook's own id: a retry publishes nothing twice.
        publish("/topic/greetings", Map.of("from", user, "text", text), id);
        // To the session that sent it, as the answer.
        return Map.of("send", List.of(
            Map.of("to", "/user/queue/replies", "only", "session", "data", Map.of("heard", text))));
    }

    /** To all sessions of a user, wherever they are. The key is of what happened, not of the attempt. */
    static String notify(String user, String text) throws IOException, InterruptedException, Fanlight.Refused {
        String name = URLEncoder.encode(user, StandardCharsets.UTF_8).replace("+", "%20");
        return publish("/user/" + name + "/queue/alerts", Map.of("text", text), UUID.randomUUID().toString());
    }

    static String publish(String to, Object data, String key)
            throws IOException, InterruptedException, Fanlight.Refused {
        return Fanlight.publish(ENV.get("GATEWAY_API"), ENV.get("API_KEY"), to, data, key);
    }

    static void webhook(HttpExchange exchange) throws IOException, InterruptedException {
        byte[] body = exchange.getRequestBody().readAllBytes();
        var headers = exchange.getRequestHeaders();
        boolean genuine = Fanlight.isGenuine(
            headers.getFirst("webhook-id"), headers.getFirst("webhook-timestamp"),
            headers.getFirst("webhook-signature"), body, ENV.get("WEBHOOK_SECRET"), Instant.now());
        if (!genuine) {
            respond(exchange, 401, "no good signature");
            return;
        }
        Object event = Json.read(new String(body, StandardCharsets.UTF_8));
        respond(exchange, 200, Json.write(answer(event)));
    }

    /** A real one has nobody else notify its users. */
    static void notify(HttpExchange exchange) throws IOException, InterruptedException, Fanlight.Refused {
        String text = new String(exchange.getRequestBody().readAllBytes(), StandardCharsets.UTF_8);
        respond(exchange, 200, notify(user(exchange), text));
    }

    /** A real one asks who is there. */
    static void token(HttpExchange exchange) throws IOException {
        String token = Fanlight.mintToken(user(exchange), Map.of(), Duration.ofHours(1), ENV.get("JWT_SECRET"));
        respond(exchange, 200, token);
    }

    static String user(HttpExchange exchange) {
        return exchange.getRequestURI().getQuery().replace("user=", "");
    }

    static void respond(HttpExchange exchange, int status, String text) throws IOException {
        byte[] bytes = text.getBytes(StandardCharsets.UTF_8);
        exchange.sendResponseHeaders(status, bytes.length);
        exchange.getResponseBody().write(bytes);
        exchange.close();
    }

    interface Handler {
        void handle(HttpExchange exchange) throws IOException, InterruptedException, Fanlight.Refused;
    }

    /** What fails is told to the sender. */
    static HttpHandler handler(Handler handler) {
        return exchange -> {
            try {
                handler.handle(exchange);
            } catch (Fanlight.Refused refused) {
                respond(exchange, refused.status, refused.getMessage());
            } catch (IOException | InterruptedException | RuntimeException error) {
                respond(exchange, 503, error.toString());
            }
        };
    }

    public static void main(String[] args) throws IOException {
        // Ends it here, rather than to take what anybody has signed.
        Fanlight.webhookKey(ENV.get("WEBHOOK_SECRET"));
        var address = new InetSocketAddress("127.0.0.1", Integer.parseInt(ENV.get("PORT")));
        var server = HttpServer.create(address, 0);
        server.createContext("/fanlight", handler(Backend::webhook));
        server.createContext("/notify", handler(Backend::notify));
        server.createContext("/token", handler(Backend::token));
        server.setExecutor(Executors.newCachedThreadPool());
        server.start();
    }
}
