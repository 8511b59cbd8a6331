package io.fanlight.examples.relay;

import static io.fanlight.examples.relay.Client.next;
import static org.assertj.core.api.Assertions.assertThat;

import java.util.UUID;

import io.fanlight.examples.relay.Client.Transport;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.EnumSource;
import org.springframework.messaging.simp.stomp.StompHeaders;

/** Spring's own clients, connected to Fanlight without an application between. */
class DirectTests {

  /** Topics keep a history, so each test has one of its own. */
  private final String topic = "/topic/spring." + UUID.randomUUID();

  @ParameterizedTest
  @EnumSource
  void whatIsSentIsConfirmedAndReachesSubscribers(Transport transport) throws Exception {
    try (var ann = Client.ofFanlight(transport, "ann");
        var bob = Client.ofFanlight(transport, "bob")) {
      var heard = ann.subscribe(topic);
      for (int n = 0; n < 20; n++) {
        bob.publish(topic, new Note("bob", "n" + n));
      }
      for (int n = 0; n < 20; n++) {
        assertThat(next(heard).note()).isEqualTo(new Note("bob", "n" + n));
      }
    }
  }

  @ParameterizedTest
  @EnumSource
  void userDestinationsReachEverySessionOfTheUser(Transport transport) throws Exception {
    // Their history is the user's, so each run has a user of its own.
    String user = "ann-" + UUID.randomUUID();
    try (var first = Client.ofFanlight(transport, user);
        var second = Client.ofFanlight(Transport.WEBSOCKET, user);
        var bob = Client.ofFanlight(transport, "bob")) {
      var heardByFirst = first.subscribe("/user/queue/notes");
      var heardBySecond = second.subscribe("/user/queue/notes");
      var heardByBob = bob.subscribe("/user/queue/notes");
      first.publish("/user/" + user + "/queue/notes", new Note("ann", "to myself"));
      assertThat(next(heardByFirst).note().text()).isEqualTo("to myself");
      assertThat(next(heardBySecond).note().text()).isEqualTo("to myself");
      bob.publish("/user/bob/queue/notes", new Note("bob", "mine"));
      assertThat(next(heardByBob).note().from()).isEqualTo("bob");
    }
  }

  @ParameterizedTest
  @EnumSource
  void whoReconnectsGetsWhatItMissed(Transport transport) throws Exception {
    try (var bob = Client.ofFanlight(Transport.WEBSOCKET, "bob")) {
      StompHeaders last;
      try (var ann = Client.ofFanlight(transport, "ann")) {
        var heard = ann.subscribe(topic);
        bob.publish(topic, new Note("bob", "first"));
        last = next(heard).headers();
      }
      bob.publish(topic, new Note("bob", "missed"));
      try (var ann = Client.ofFanlight(transport, "ann")) {
        var subscribe = new StompHeaders();
        subscribe.setDestination(topic);
        subscribe.set("epoch", last.getFirst("epoch"));
        subscribe.set("offset", last.getFirst("offset"));
        var heard = ann.subscribe(subscribe);
        bob.publish(topic, new Note("bob", "live"));
        assertThat(next(heard).note().text()).isEqualTo("missed");
        assertThat(next(heard).note().text()).isEqualTo("live");
      }
    }
  }

  @Test
  void heartbeatsKeepASilentSessionAndBothSidesHoldTheOtherToThem() throws Exception {
    try (var ann = Client.ofFanlight(Transport.WEBSOCKET, "ann");
        var streaming = Client.ofFanlight(Transport.SOCKJS_XHR_STREAMING, "ann")) {
      long interval = Math.max(2000, ann.connected.getHeartbeat()[0]);
      // Spring's client gives up after three intervals of silence, the server after two and 5 s.
      Thread.sleep(interval * 2 + 6000);
      for (var client : new Client[] {ann, streaming}) {
        assertThat(client.session.isConnected()).isTrue();
        var heard = client.subscribe(topic);
        client.publish(topic, new Note("ann", "still here"));
        assertThat(next(heard).note().text()).isEqualTo("still here");
      }
    }
  }

  @Test
  void aDeniedDestinationIsAnErrorWithItsCode() throws Exception {
    var ann = Client.ofFanlight(Transport.WEBSOCKET, "ann");
    ann.session.setAutoReceipt(false);
    ann.session.send("/queue/not-mine", new Note("ann", "x"));
    assertThat(ann.awaitError().getFirst("code")).isEqualTo("forbidden");
    ann.awaitLoss();
  }
}
