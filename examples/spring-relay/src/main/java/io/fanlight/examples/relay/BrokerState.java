package io.fanlight.examples.relay;

import org.slf4j.Logger;
import org.slf4j.LoggerFactory;
import org.springframework.context.event.EventListener;
import org.springframework.messaging.simp.broker.BrokerAvailabilityEvent;
import org.springframework.stereotype.Component;

/**
 * Whether the relay reaches its broker. While it does not, what the application sends fails with a
 * {@code MessageDeliveryException}, and clients are told by an ERROR.
 */
@Component
public class BrokerState {

  private static final Logger LOG = LoggerFactory.getLogger(BrokerState.class);

  private volatile boolean available;

  @EventListener
  void on(BrokerAvailabilityEvent event) {
    available = event.isBrokerAvailable();
    LOG.info("the broker is {}", available ? "there" : "away");
  }

  public boolean isAvailable() {
    return available;
  }
}
