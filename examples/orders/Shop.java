import io.fanlight.Fanlight;
import io.fanlight.Json;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardCopyOption;
import java.security.SecureRandom;
import java.util.Collection;
import java.util.Comparator;
import java.util.HexFormat;
import java.util.List;
import java.util.Map;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;

/** All orders, in memory and in a file, and who is told of what becomes of them. */
final class Shop {
    private final Map<String, Order> orders = new ConcurrentHashMap<>();
    private final Path file;
    private final String api;
    private final String apiKey;
    /** One, so that what happens is told in the order in which it happened. */
    private final ExecutorService publisher = Executors.newSingleThreadExecutor();

    Shop(Path file, String api, String apiKey) throws IOException {
        this.file = file;
        this.api = api;
        this.apiKey = apiKey;
        if (!Files.exists(file)) return;
        for (Object each : (List<?>) Json.read(Files.readString(file))) {
            Order order = Order.ofJson(each);
            orders.put(order.id, order);
        }
    }

    Order find(String id) {
        return orders.get(id);
    }

    /** Those of a customer, or all where that is null; the newest first. */
    List<Map<String, Object>> list(String customer) {
        return orders.values().stream()
            .filter(order -> customer == null || order.customer.equals(customer))
            .map(Order::toJson)
            .sorted(Comparator.comparing((Map<String, Object> order) -> placedAt(order)).reversed())
            .toList();
    }

    Order place(String customer, String item) throws IOException {
        byte[] id = new byte[5];
        new SecureRandom().nextBytes(id);
        Order order = new Order(HexFormat.of().formatHex(id), customer, item);
        order.advance(Order.State.PLACED, System.currentTimeMillis());
        orders.put(order.id, order);
        changed(order);
        return order;
    }

    /** False where the state does not follow the order's present one. */
    boolean advance(Order order, Order.State to) throws IOException {
        if (!order.advance(to, System.currentTimeMillis())) return false;
        changed(order);
        return true;
    }

    private void changed(Order order) throws IOException {
        save();
        Map<String, Object> told = order.toJson();
        told.remove("position");
        int version = order.version();
        publisher.execute(() -> publish(order, told, version));
    }

    /** Until a gateway has it: under one key it is published once, however often it is sent. */
    private void publish(Order order, Map<String, Object> told, int version) {
        for (long delay = 100;; delay = Math.min(2 * delay, 5000)) {
            try {
                String key = order.id + "-" + version;
                Object answer = Json.read(Fanlight.publish(api, apiKey, "/topic/orders." + order.id, told, key));
                order.isPublishedAt(Json.get(answer, "epoch"), Json.get(answer, "offset"));
                Fanlight.publish(api, apiKey, "/topic/order-board", told, key);
                save();
                return;
            } catch (Fanlight.Refused never) {
                System.err.println("never published: " + never.getMessage());
                return;
            } catch (IOException error) {
                System.err.println("not published yet: " + error);
            } catch (InterruptedException end) {
                return;
            }
            try {
                Thread.sleep(delay);
            } catch (InterruptedException end) {
                return;
            }
        }
    }

    private synchronized void save() throws IOException {
        Collection<Map<String, Object>> all = list(null);
        Path beside = file.resolveSibling(file.getFileName() + ".new");
        Files.writeString(beside, Json.write(all));
        Files.move(beside, file, StandardCopyOption.REPLACE_EXISTING, StandardCopyOption.ATOMIC_MOVE);
    }

    private static Long placedAt(Map<String, Object> order) {
        return (Long) ((Map<?, ?>) ((List<?>) order.get("steps")).get(0)).get("at");
    }
}
