import { once } from 'node:events'
import { connect, createServer, type Server, type Socket } from 'node:net'

/** How the nodes of one cluster reach each other: through relays, at which a link can go silent as a network does. */
export interface Links {
  /** The address that node number `index` itself uses. */
  own(index: number): string
  /** The address under which the others reach it. */
  relayed(index: number): string
  /** From now on nothing gets through between `index` and the others. No connection ends because of it. */
  isolate(index: number): void
  /** What was held back arrives late, as after an outage that TCP survived. */
  heal(): void
  close(): Promise<void>
}

interface Link {
  readonly ends: readonly [number, number]
  readonly sockets: readonly [Socket, Socket]
}

/**
 * Every node has an address of its own on the loopback network, from which its connections come, and a relayed one with the
 * same port. A relay connects from the relayed address of the node it was called by, so that the nodes know each other by
 * these addresses only, and call back through the relays.
 */
export async function startLinks(count: number, port: number): Promise<Links> {
  const network = `127.${byte()}.${byte()}`
  const own = (index: number) => `${network}.${10 + index}`
  const relayed = (index: number) => `${network}.${20 + index}`
  const links = new Set<Link>()
  let isolated: number | null = null

  const apply = ({ ends, sockets }: Link) => {
    const silent = isolated !== null && ends.includes(isolated)
    // Who is not read from fills its buffers and waits; even the end of a connection stays unseen.
    for (const socket of sockets) silent ? socket.pause() : socket.resume()
  }

  const relay = (to: number): Server =>
    createServer({ allowHalfOpen: true, noDelay: true, pauseOnConnect: true }, (caller) => {
      const from = Number(caller.remoteAddress?.split('.')[3]) - 10
      const called = connect({ host: own(to), port, localAddress: relayed(from), allowHalfOpen: true, noDelay: true })
      const link: Link = { ends: [from, to], sockets: [caller, called] }
      links.add(link)
      for (const [one, other] of [
        [caller, called],
        [called, caller],
      ] as const) {
        one.on('data', (bytes) => other.write(bytes))
        one.on('end', () => other.end())
        // 'close' follows, and tells the other side.
        one.on('error', () => {})
        one.on('close', () => {
          other.destroySoon()
          links.delete(link)
        })
      }
      apply(link)
    })

  const relays = Array.from({ length: count }, (_, index) => relay(index))
  for (const [index, server] of relays.entries()) {
    server.listen(port, relayed(index))
    await once(server, 'listening')
  }

  return {
    own,
    relayed,
    isolate(index) {
      isolated = index
      links.forEach(apply)
    },
    heal() {
      isolated = null
      links.forEach(apply)
    },
    async close() {
      const closed = relays.map((server) => once(server, 'close'))
      for (const server of relays) server.close()
      for (const { sockets } of links) for (const socket of sockets) socket.destroy()
      await Promise.all(closed)
    },
  }
}

/** Neither the loopback address that everybody uses, nor a broadcast address. */
function byte(): number {
  return 1 + Math.floor(Math.random() * 253)
}
