import io.fanlight.Json;
import java.util.ArrayList;
import java.util.EnumSet;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.Set;

/** An order, and what may become of it. */
final class Order {
    enum State {
        PLACED, PAID, PACKED, SHIPPED, DELIVERED, CANCELLED;

        Set<State> next() {
            return switch (this) {
                case PLACED -> EnumSet.of(PAID, CANCELLED);
                case PAID -> EnumSet.of(PACKED, CANCELLED);
                case PACKED -> EnumSet.of(SHIPPED);
                case SHIPPED -> EnumSet.of(DELIVERED);
                case DELIVERED, CANCELLED -> EnumSet.noneOf(State.class);
            };
        }

        /** Customers pay and cancel, the rest is done by those who work there. */
        boolean isUpToTheCustomer() {
            return this == PAID || this == CANCELLED;
        }

        static State of(Object name) {
            return valueOf(String.valueOf(name).toUpperCase(Locale.ROOT));
        }

        @Override
        public String toString() {
            return name().toLowerCase(Locale.ROOT);
        }
    }

    record Step(State state, long at) {}

    final String id;
    final String customer;
    final String item;
    private final List<Step> steps = new ArrayList<>();
    /** Behind which position of its destination all steps come that are not here. */
    private Map<String, Object> position;

    Order(String id, String customer, String item) {
        this.id = id;
        this.customer = customer;
        this.item = item;
    }

    synchronized State state() {
        return steps.get(steps.size() - 1).state;
    }

    synchronized int version() {
        return steps.size();
    }

    /** Goes on to a state; false where that does not follow. */
    synchronized boolean advance(State to, long now) {
        if (steps.isEmpty() ? to != State.PLACED : !state().next().contains(to)) return false;
        return steps.add(new Step(to, now));
    }

    synchronized void isPublishedAt(Object epoch, Object offset) {
        position = Map.of("epoch", epoch, "offset", ((Double) offset).longValue());
    }

    /** As the page and the file have it. */
    synchronized Map<String, Object> toJson() {
        var json = new LinkedHashMap<String, Object>();
        json.put("id", id);
        json.put("customer", customer);
        json.put("item", item);
        var list = new ArrayList<Map<String, Object>>();
        for (Step step : steps) list.add(Map.of("state", step.state.toString(), "at", step.at));
        json.put("steps", list);
        if (position != null) json.put("position", position);
        return json;
    }

    static Order ofJson(Object json) {
        var order = new Order((String) Json.get(json, "id"), (String) Json.get(json, "customer"),
            (String) Json.get(json, "item"));
        for (Object step : (List<?>) Json.get(json, "steps")) {
            long at = ((Double) Json.get(step, "at")).longValue();
            order.steps.add(new Step(State.of(Json.get(step, "state")), at));
        }
        Object position = Json.get(json, "position");
        if (position != null) order.isPublishedAt(Json.get(position, "epoch"), Json.get(position, "offset"));
        return order;
    }
}
