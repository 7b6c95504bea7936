import { DenseSet, type DenseSetItem } from '../base/dense-set.ts'
import type { HolderSession } from '../protocol/store.ts'

/** What the leases of one session have in common: its id, and being told when it is gone. */
export interface LiveSession {
  readonly id: string
  /** Calls `listener` when the session is gone, at once if it is already. Returns the function that unsubscribes. */
  onLost(listener: (cause: unknown) => void): () => void
}

interface Listener extends DenseSetItem {
  hear(cause: unknown): void
}

interface Pinged {
  ping?(): Promise<unknown>
  drop?(): Promise<void>
  close(): Promise<void>
}

/** Opens a session, and pings it from then on. `onLost` is called once, when the session is gone but was not closed. */
export async function openPinged<Session extends Pinged>(
  open: (onLost: (cause: unknown) => void) => Promise<Session>,
  everyMs: number,
  onLost: (cause: unknown) => void,
): Promise<Session> {
  let over = false
  let pinging: NodeJS.Timeout | undefined
  const lose = (cause: unknown) => {
    if (over) return
    over = true
    clearInterval(pinging)
    onLost(cause)
  }
  const session = await open(lose)
  const ping = async () => {
    try {
      await session.ping?.()
    } catch (cause) {
      lose(cause)
      // The server has to know, too, before others can go ahead. That fails if the connection is what was lost.
      await (session.drop?.() ?? session.close()).catch(lose)
    }
  }
  if (!over && session.ping !== undefined) pinging = setInterval(ping, everyMs).unref()
  return {
    ...session,
    close() {
      over = true
      clearInterval(pinging)
      return session.close()
    },
  }
}

/** An idle connection would be ended by a firewall, so it says something this often. */
const PING_MS = 4000

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
    const listeners = new DenseSet<Listener>()
    let lost: { cause: unknown } | undefined
    const session = await openPinged(this.#open, PING_MS, (cause) => {
      lost = { cause }
      this.#current = undefined
      this.#close = undefined
      for (const listener of listeners) listener.hear(cause)
      listeners.clear()
    })
    if (lost === undefined) this.#close = () => session.close()
    return {
      id: session.id,
      onLost(hear) {
        const listener: Listener = { hear }
        if (lost !== undefined) hear(lost.cause)
        else listeners.add(listener)
        return () => void listeners.delete(listener)
      },
    }
  }
}
