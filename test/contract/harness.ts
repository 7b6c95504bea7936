import { afterAll, beforeAll, describe, expect, vi } from 'vitest'
import type { SqlAdapter } from '../../src/adapters/adapter.ts'
import { type Adapter, createLocks, type InstanceOptions, type LockEvent, type Locks } from '../../src/index.ts'
import type { Connected } from '../adapters.ts'
import { engines, type OpenEngine, type TestEngine } from '../engines.ts'
import { routed } from '../statements.ts'

/** What a suite tests: one engine, seen by two instances as two processes would see it. */
export interface Subject {
  readonly engine: TestEngine
  readonly database: OpenEngine
  /** The connection of `locks`, on which its guarded transactions run. */
  readonly connected: Connected
  readonly locks: Locks<unknown>
  /** An instance on a connection of its own. */
  readonly others: Locks<unknown>
}

/** Registers the tests of one topic. What is in the subject can be used in tests and hooks only. */
export type Suite = (subject: Subject) => void

/** How long a test may take, and wait for what has to come. */
const PATIENCE_MS = 60_000

/** Long enough for a machine that is busy with other things. */
export const DEFAULTS: InstanceOptions = { ttl: '40s', wait: '40s', statementTimeout: '20s' }

/**
 * The tests of one engine run in turn, engines side by side, since most of the time is spent waiting. But PGlite takes
 * a second to start, and keeps this thread busy meanwhile.
 */
export function onEveryEngine(
  suites: Record<string, Suite>,
  isMeant: (engine: TestEngine) => boolean = () => true,
): void {
  for (const engine of engines().filter(isMeant)) {
    for (const [topic, suite] of Object.entries(suites)) {
      describe(engine.name, { concurrent: engine.connector !== 'pglite', timeout: PATIENCE_MS }, () => {
        describe.sequential(topic, () => onEngine(engine, suite))
      })
    }
  }
}

/** Runs a suite in a database of its own. */
export function onEngine(engine: TestEngine, suite: Suite): void {
  let opened: Omit<Subject, 'engine'>

  beforeAll(async () => {
    const database = await engine.open()
    const { connected } = database
    const locks = createLocks(connected.adapter, DEFAULTS)
    opened = { database, connected, locks, others: await database.locks(DEFAULTS) }
  })

  afterAll(async () => {
    await opened.locks.close()
    await opened.database.close()
  })

  suite({
    engine,
    get database() {
      return opened.database
    },
    get connected() {
      return opened.connected
    },
    get locks() {
      return opened.locks
    },
    get others() {
      return opened.others
    },
  })
}

/** Waits until `check` passes. */
export function eventually<T>(check: () => T | Promise<T>): Promise<T> {
  return vi.waitFor(check, { timeout: PATIENCE_MS / 2, interval: 10 })
}

export function sleep(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms))
}

/** Waits until nobody holds the lock. */
export async function untilFree(locks: Locks<unknown>, name: string): Promise<void> {
  await eventually(async () => expect(await locks.inspect(name)).toBeNull())
}

/** Waits until this many callers of `locks` wait for a lock that is held. */
export async function untilWaiting(locks: Locks<unknown>, name: string, waiters = 1): Promise<void> {
  await eventually(async () => expect((await locks.inspect(name))?.waiters).toBe(waiters))
}

/** All events of an instance from now on. */
export function recordEvents(locks: Locks<unknown>): LockEvent[] {
  const events: LockEvent[] = []
  locks.on((event) => events.push(event))
  return events
}

/** Waits until an event of this type has come for the lock, and answers it. */
export function eventOf<Type extends LockEvent['type']>(
  events: readonly LockEvent[],
  type: Type,
  name: string,
): Promise<Extract<LockEvent, { type: Type }>> {
  return eventually(() => {
    const found = events.find((event) => event.type === type && 'name' in event && event.name === name)
    expect(found, `an event '${type}' among ${events.map((event) => event.type)}`).toBeDefined()
    return found as Extract<LockEvent, { type: Type }>
  })
}

/** An adapter between rowlock and the real one, which counts statements and breaks when told to. */
export interface Tap {
  readonly adapter: Adapter<unknown>
  /** The text of each statement that was sent. */
  readonly statements: string[]
  /** Replaces `query`, when set. */
  intercept:
    | ((forward: () => ReturnType<SqlAdapter<unknown>['query']>) => ReturnType<SqlAdapter<unknown>['query']>)
    | null
}

export function tap(adapter: Adapter<unknown>): Tap {
  if (adapter.engine === 'memory') throw new Error('the in-memory engine sends no statements')
  const statements: string[] = []
  const tapped: Tap = {
    adapter: routed(adapter, async (statement, forward) => {
      statements.push(statement.text)
      return tapped.intercept === null ? forward() : tapped.intercept(forward)
    }),
    statements,
    intercept: null,
  }
  return tapped
}

/** What drivers throw when the connection breaks. */
export function connectionReset(): Error {
  return Object.assign(new Error('read ECONNRESET'), { code: 'ECONNRESET' })
}

export function settled<T>(promise: Promise<T>): Promise<PromiseSettledResult<T>> {
  return promise.then(
    (value) => ({ status: 'fulfilled', value }),
    (reason: unknown) => ({ status: 'rejected', reason }),
  )
}

/** A transaction that has done `body` and stays open. Resolves with what commits it. */
export async function openTransaction(
  connected: Connected,
  body: (tx: unknown) => Promise<unknown>,
): Promise<() => Promise<void>> {
  let commit!: () => void
  const committing = new Promise<void>((resolve) => {
    commit = resolve
  })
  let begun!: () => void
  const beginning = new Promise<void>((resolve) => {
    begun = resolve
  })
  const transaction = connected.transaction(async (tx) => {
    await body(tx)
    begun()
    await committing
  })
  await Promise.race([beginning, transaction])
  return async () => {
    commit()
    await transaction
  }
}
