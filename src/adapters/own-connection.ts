import { DatabaseError, LockError } from '../base/errors.ts'
import { bounded, openedInTime } from '../base/timing.ts'
import type { DedicatedConnection, Result, SqlAdapter, SqlEngine, Statement } from './adapter.ts'
import { isConnectionFailure } from './driver-errors.ts'

/**
 * A statement waits so long for the connection to be opened; then it goes to the pool, where it may have to wait behind the
 * application. One of the pool's is there at once or not for long; to open one takes several round trips, and a busy server
 * its time.
 */
const BORROWING_MS = 250
const OPENING_MS = 1000
const FIRST_PAUSE_MS = 100
const LONGEST_PAUSE_MS = 5000
/** A pool that has no second connection to lend probably never will, and is kept from its only one while that is found out. */
const LONGEST_PAUSE_WITHOUT_SECOND_MS = 60_000
/**
 * No statement is to wait for a row on it. InnoDB cannot be told so of an INSERT, which a row stops that an open transaction
 * has created: it waits for a second at most, instead of fifty.
 */
const SETUP: Partial<Record<SqlEngine, Statement>> = {
  mysql: { text: 'set session innodb_lock_wait_timeout = 1', values: [] },
}
/** A connection of the pool is given back when nothing has needed it for so long. */
const IDLE_MS = 2000
/** What is sent to the pool has to wait behind the application, if it has no answer by then. */
const SLOW_POOL_MS = 1000

/** How long a transaction waits for a connection beside its own, which may be the pool's last one. */
const OUTSIDE_MS = 250
/** Where there was none, others do not wait for one within that time. */
const NONE_OUTSIDE_MS = 1000

/** Asks, for transactions, on another connection than their own; the answer is undefined if there is none to be had. */
export type Outside = <T>(ask: () => Promise<T>) => Promise<T | undefined>

export interface OwnConnectionOptions {
  readonly enabled: boolean
  /** A connection that has not answered for so long is taken for lost. */
  readonly timeoutMs: number
}

/**
 * The connection of rowlock's own, beside the application's pool, whose connections the application's transactions may all be
 * holding: renewals, polls, queueing and releases go over it, and it listens for hand-offs. No statement on it waits for a row.
 * Opened when it is first needed, and again, with pauses, when it was lost; meanwhile the pool has to do.
 */
export class OwnConnection {
  readonly #adapter: SqlAdapter<never>
  readonly #timeoutMs: number
  /** Whether there may be one for what can be done without. */
  readonly isWanted: boolean
  #open: (() => Promise<DedicatedConnection>) | undefined
  #shared: Shared | undefined
  #opening: Promise<Shared> | undefined
  #pauseMs = FIRST_PAUSE_MS
  #notBefore = 0
  #idle: NodeJS.Timeout | undefined
  #closed = false
  #warned = false
  #noneOutsideUntil = 0
  /** Called if statements have to queue behind the application, or it may have to wait for this connection. */
  onWarning: ((message: string) => void) | undefined
  /** Whether there is something to keep alive, for which a connection of the pool is kept. */
  isNeeded: () => boolean = () => true

  constructor(adapter: SqlAdapter<never>, { enabled, timeoutMs }: OwnConnectionOptions) {
    this.#adapter = adapter
    this.#timeoutMs = timeoutMs
    this.isWanted = enabled
    if (enabled) this.#open = this.#dedicate ?? this.#borrowing(adapter)
  }

  /** Opens it beforehand: there is something to keep alive, and later the pool may have no connection to spare. */
  prepare(): void {
    // A failure is told to whoever needs it; the others have the pool.
    if (this.#shared === undefined && this.#opening === undefined && this.#mayOpen)
      this.#opened().catch(() => undefined)
  }

  /** Runs one statement that commits by itself. */
  async query(statement: Statement): Promise<Result> {
    const shared = this.#shared ?? (await this.#soon())
    return shared === undefined ? this.#onPool(statement) : shared.query(statement)
  }

  readonly outside: Outside = async (ask) => {
    if (this.#shared === undefined && performance.now() < this.#noneOutsideUntil) return undefined
    const answer = ask()
    const isOpened = this.#dedicate !== undefined && (this.#opening !== undefined || this.#mayOpen)
    try {
      return await bounded(answer, isOpened ? OPENING_MS + OUTSIDE_MS : OUTSIDE_MS).catch((error: unknown) => {
        // One of our own will answer, however slowly; to go on without it would cost more.
        if (this.#shared === undefined) throw error
        return bounded(answer, this.#timeoutMs - OUTSIDE_MS)
      })
    } catch (error) {
      if (!(error instanceof DatabaseError) || error.failure === 'other') throw error
      this.#noneOutsideUntil = performance.now() + NONE_OUTSIDE_MS
      return undefined
    }
  }

  /** The connection for as long as somebody is attached to it; `close` detaches. UNSUPPORTED if there can be none. */
  async attach(purpose: string): Promise<DedicatedConnection> {
    if (this.#dedicate === undefined) {
      throw new LockError(
        'UNSUPPORTED',
        `${purpose} needs a connection of rowlock's own, which this adapter cannot open: use fromPg or fromMysql2, or give the adapter one of them as its sessions option`,
      )
    }
    this.#open ??= this.#dedicate
    const shared = this.#shared ?? (await this.#opened())
    return shared.attach()
  }

  async close(): Promise<void> {
    this.#closed = true
    clearInterval(this.#idle)
    await this.#opening?.catch(() => undefined)
    await this.#shared?.close()
  }

  get #dedicate(): (() => Promise<DedicatedConnection>) | undefined {
    const { engine, dedicate } = this.#adapter
    return dedicate && (() => setUp(engine, dedicate()))
  }

  get #mayOpen(): boolean {
    return this.#open !== undefined && !this.#closed && performance.now() >= this.#notBefore
  }

  async #soon(): Promise<Shared | undefined> {
    if (
      this.#open === undefined ||
      this.#closed ||
      (this.#opening === undefined && performance.now() < this.#notBefore)
    ) {
      return undefined
    }
    let timer: NodeJS.Timeout | undefined
    const late = new Promise<undefined>((resolve) => {
      timer = setTimeout(() => resolve(undefined), this.#dedicate === undefined ? BORROWING_MS : OPENING_MS)
    })
    try {
      return await Promise.race([this.#opened().catch(() => undefined), late])
    } finally {
      clearTimeout(timer)
    }
  }

  #opened(): Promise<Shared> {
    this.#opening ??= this.#openShared().finally(() => {
      this.#opening = undefined
    })
    return this.#opening
  }

  async #openShared(): Promise<Shared> {
    try {
      const shared = new Shared(await openedInTime(this.#open!(), this.#timeoutMs), this.#timeoutMs, () => {
        if (this.#shared === shared) this.#shared = undefined
      })
      if (!shared.isLost) this.#shared = shared
      this.#pauseMs = FIRST_PAUSE_MS
      if (this.#closed) await shared.close()
      return shared
    } catch (error) {
      // Whoever needs it for more than a statement hears of it; for the others there is the pool.
      if (error instanceof LockError && error.code === 'UNSUPPORTED') this.#open = undefined
      this.#notBefore = performance.now() + this.#pauseMs
      const hasNone = error instanceof DatabaseError && error.failure === 'unavailable'
      this.#pauseMs = Math.min(hasNone ? LONGEST_PAUSE_WITHOUT_SECOND_MS : LONGEST_PAUSE_MS, this.#pauseMs * 2)
      throw error
    }
  }

  #onPool(statement: Statement): Promise<Result> {
    const answer = this.#adapter.query(statement)
    if (this.#warned || this.#adapter.single === true) return answer
    const timer = setTimeout(() => {
      if (this.#warned) return
      this.#warned = true
      this.onWarning?.(
        "rowlock's statements have to queue behind the application's transactions, which can cost leases: the pool has no free connection, and there is none of rowlock's own. Give the adapter the option sessions (fromPg or fromMysql2 of the same database), or enlarge the pool",
      )
    }, SLOW_POOL_MS).unref()
    return answer.finally(() => clearTimeout(timer))
  }

  /** For adapters that open no connection, but lend one of the pool's, which they need back when there is nothing to keep. */
  #borrowing({ borrow }: SqlAdapter<never>): (() => Promise<DedicatedConnection>) | undefined {
    if (borrow === undefined) return undefined
    return async () => {
      const connection = await borrow()
      connection.onWarning?.((message) => this.onWarning?.(message))
      clearInterval(this.#idle)
      this.#idle = setInterval(() => {
        const shared = this.#shared
        if (shared === undefined) clearInterval(this.#idle)
        else if (!this.isNeeded() && performance.now() - shared.askedAt > IDLE_MS) void shared.close()
      }, IDLE_MS).unref()
      return connection
    }
  }
}

async function setUp(engine: SqlEngine, opening: Promise<DedicatedConnection>): Promise<DedicatedConnection> {
  const connection = await opening
  const setup = SETUP[engine]
  if (setup === undefined) return connection
  try {
    await connection.query(setup)
    return connection
  } catch (error) {
    await connection.close()
    throw error
  }
}

/** One such connection, while it lasts. */
class Shared {
  readonly #connection: DedicatedConnection
  readonly #timeoutMs: number
  readonly #onEnd: () => void
  readonly #listeners = new Set<(cause: unknown) => void>()
  readonly #notified = new Set<(payload: string) => void>()
  readonly #sentAt = new Set<{ at: number }>()
  #lost: { readonly cause: unknown } | undefined
  #closing = false
  askedAt = performance.now()

  constructor(connection: DedicatedConnection, timeoutMs: number, onEnd: () => void) {
    this.#connection = connection
    this.#timeoutMs = timeoutMs
    this.#onEnd = onEnd
    connection.onNotification?.((payload) => {
      for (const listener of this.#notified) listener(payload)
    })
    connection.onLost((cause) => this.#end(cause))
  }

  get isLost(): boolean {
    return this.#lost !== undefined
  }

  async query(statement: Statement): Promise<Result> {
    const now = performance.now()
    this.askedAt = now
    const [oldest] = this.#sentAt
    if (oldest !== undefined && now - oldest.at > this.#timeoutMs) {
      await this.#drop()
      throw new Error('the connection does not answer, and another one is opened')
    }
    const sent = { at: now }
    this.#sentAt.add(sent)
    try {
      return await this.#connection.query(statement)
    } catch (error) {
      // Drivers differ in when they tell that a connection is gone, if nothing is asked on it.
      if (isConnectionFailure(error)) this.#end(error)
      throw error
    } finally {
      this.#sentAt.delete(sent)
    }
  }

  attach(): DedicatedConnection {
    const { backendId, onNotification } = this.#connection
    let mine: ((cause: unknown) => void) | undefined
    let heard: ((payload: string) => void) | undefined
    return {
      backendId,
      query: (statement) => this.query(statement),
      ...(onNotification && {
        onNotification: (listener) => {
          heard = listener
          this.#notified.add(listener)
        },
      }),
      onLost: (listener) => {
        mine = listener
        if (this.#lost !== undefined) listener(this.#lost.cause)
        else this.#listeners.add(listener)
      },
      close: async () => {
        if (mine !== undefined) this.#listeners.delete(mine)
        if (heard !== undefined) this.#notified.delete(heard)
      },
      drop: () => this.#drop(),
    }
  }

  async close(): Promise<void> {
    if (this.#closing) return
    this.#closing = true
    this.#onEnd()
    await this.#connection.close()
  }

  /** It has not answered for too long. The server has to know, before others can go ahead. */
  async #drop(): Promise<void> {
    this.#end(new Error('the connection does not answer'))
    await this.close()
  }

  #end(cause: unknown): void {
    if (this.#lost !== undefined) return
    this.#lost = { cause }
    this.#onEnd()
    const listeners = [...this.#listeners]
    this.#listeners.clear()
    for (const listener of listeners) listener(cause)
  }
}
