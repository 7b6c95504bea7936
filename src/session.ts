import type { HolderSession } from './store/store.ts'

/** What the leases of one session have in common: its id, and being told when it is gone. */
export interface LiveSession {
  readonly id: string
  /** Calls `listener` when the session is gone, at once if it is already. Returns the function that unsubscribes. */
  onLost(listener: (cause: unknown) => void): () => void
}

/** An idle session would be ended by the server (MySQL's wait_timeout) or by a firewall; so it says something this often. */
const PING_MS = 10_000

/**
 * The database session that this process's leases with `takeover: 'session'` live by. Opened for the first of them; after a
 * loss the next lease opens another, under a new id, because leases of the lost one may be in other hands already.
 */
export class Sessions {
  readonly #open: (onLost: (cause: unknown) => void) => Promise<HolderSession>
  #current: Promise<LiveSession> | undefined
  #close: (() => Promise<void>) | undefined

  constructor(open: (onLost: (cause: unknown) => void) => Promise<HolderSession>) {
    this.#open = open
  }

  current(): Promise<LiveSession> {
    if (this.#current === undefined) {
      const opening = this.#openSession()
      this.#current = opening
      opening.catch(() => {
        if (this.#current === opening) this.#current = undefined
      })
    }
    return this.#current
  }

  async close(): Promise<void> {
    await this.#current?.catch(() => undefined)
    await this.#close?.()
  }

  async #openSession(): Promise<LiveSession> {
    const listeners = new Set<(cause: unknown) => void>()
    let lost: { cause: unknown } | undefined
    let pinging: NodeJS.Timeout | undefined
    const lose = (cause: unknown) => {
      if (lost !== undefined) return
      lost = { cause }
      clearInterval(pinging)
      this.#current = undefined
      this.#close = undefined
      for (const listener of listeners) listener(cause)
      listeners.clear()
    }
    const session = await this.#open(lose)
    const ping = async () => {
      try {
        await session.ping()
      } catch (cause) {
        lose(cause)
        // Others may take over once the server knows, too.
        await session.close().catch(lose)
      }
    }
    if (lost === undefined) pinging = setInterval(ping, PING_MS).unref()
    this.#close = () => {
      clearInterval(pinging)
      return session.close()
    }
    return {
      id: session.id,
      onLost(listener) {
        if (lost !== undefined) listener(lost.cause)
        else listeners.add(listener)
        return () => void listeners.delete(listener)
      },
    }
  }
}
