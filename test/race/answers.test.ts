import { setTimeout as sleep } from 'node:timers/promises'
import Database from 'better-sqlite3'
import { beforeAll, describe, expect, it, type TestContext } from 'vitest'
import type { SqlAdapter, Statement } from '../../src/adapters/adapter.ts'
import { createLocks, type InstanceOptions, type Lease, LockError, type Locks } from '../../src/index.ts'
import { connectors } from '../adapters.ts'
import { connect } from '../connect.ts'
import { eventually, openTransaction, settled } from '../contract/harness.ts'
import { freshName, type OpenEngine, type TestEngine } from '../engines.ts'
import { startProxy } from '../tcp-proxy.ts'
import { enginesOnce, servedEngines } from './one-per-engine.ts'

/** What keeps the database from answering, and an instance that is exposed to it. */
interface Obstacle {
  instance(options: InstanceOptions): Promise<Locks<unknown>>
  /** Resolves with what ends it. */
  begin(): Promise<() => Promise<unknown>>
}

/** Nothing of these tests runs out by itself: what is found free was given back. */
const TTL = '10m'
const WAIT_MS = 300
const TRY_TIMEOUT_MS = 3000
/** More than a call that keeps to one statementTimeout takes on a busy machine; less than one takes that uses up a second one. */
const IN_TIME_MS = 1.6 * TRY_TIMEOUT_MS
/** A row stays locked for so long; then the server falls silent. */
const ALMOST_MS = 0.85 * TRY_TIMEOUT_MS
/** Of an acquire's two limits this is the far one: an answer long before is due to the wait. */
const FAR_TIMEOUT_MS = 25_000

/** Rejects if `call` takes so long that it cannot have kept to its bound, on a machine as slow as can be. */
async function answerWithin<T>(call: Promise<T>, limitMs: number): Promise<PromiseSettledResult<T>> {
  const late = sleep(limitMs, undefined, { ref: false }).then(() => {
    throw new Error(`no answer within ${limitMs} ms`)
  })
  return Promise.race([settled(call), late])
}

/** What is no acquire, and has a lease to do it with. */
const calls: Record<string, (locks: Locks<unknown>, lease: Lease<unknown>) => Promise<unknown>> = {
  release: (_, lease) => lease.release(),
  extend: (_, lease) => lease.extend('20m'),
  restore: (locks, lease) => locks.restore(lease.toJSON()),
  inspect: (locks, { name }) => locks.inspect(name),
  list: (locks) => locks.list(),
  purge: (locks) => locks.purge({ idleFor: '1d' }),
  'forceRelease, its wait and a second': (locks, { name }) => locks.forceRelease(name, { wait: WAIT_MS }),
}

/** It may also have got around the obstacle. */
function expectAnswer(outcome: PromiseSettledResult<unknown>, call: string): void {
  if (outcome.status === 'fulfilled') return
  expect(outcome.reason, call).toBeInstanceOf(LockError)
  expect(['DATABASE', 'LOCK_TIMEOUT'], call).toContain((outcome.reason as LockError).code)
}

/** An instance on a pool of its own. */
function onPool({ engine }: TestEngine, url: string, poolSize: number, { onTestFinished }: TestContext) {
  const connected = (engine === 'postgres' ? connectors.pg : connectors.mysql2)(url, { poolSize })
  onTestFinished(() => connected.close())
  const instance = async (options: InstanceOptions) => {
    const locks = createLocks(connected.adapter, options)
    onTestFinished(() => locks.close())
    return locks
  }
  return { connected, instance }
}

const obstacles: Record<string, (engine: TestEngine, open: OpenEngine, context: TestContext) => Promise<Obstacle>> = {
  'a server that does not answer': async (engine, open, context) => {
    const proxy = await startProxy(open.url)
    context.onTestFinished(() => proxy.close())
    const { instance } = onPool(engine, proxy.through(open.url), 4, context)
    return {
      instance,
      async begin() {
        proxy.blackhole()
        return async () => proxy.restore()
      },
    }
  },
  'a pool with nothing free': async (engine, open, context) => {
    const { connected, instance } = onPool(engine, open.url, 1, context)
    return { instance, begin: () => openTransaction(connected, async () => undefined) }
  },
  'a table that is locked': async (engine, open, context) => {
    const { instance } = onPool(engine, open.url, 4, context)
    const [lock, unlock] =
      engine.engine === 'postgres'
        ? ['begin; lock table rowlock_locks in access exclusive mode', 'commit']
        : ['lock tables rowlock_locks write', 'unlock tables']
    return {
      instance,
      async begin() {
        const connection = await connect(open.url)
        await connection.query(lock)
        return async () => {
          await connection.query(unlock)
          await connection.close()
        }
      },
    }
  },
}

const fileObstacles: typeof obstacles = {
  'a file whose write lock is held': async (_, open) => ({
    instance: (options) => open.locks(options),
    async begin() {
      const writer = new Database(open.url)
      writer.exec('begin immediate')
      return async () => {
        writer.exec('commit')
        writer.close()
      }
    },
  }),
}

function suite(engine: TestEngine, name: string, obstacle: (typeof obstacles)[string]): void {
  describe.sequential.each(['the first call', 'a later call'])(`${name}: %s`, (which) => {
    let open: OpenEngine

    beforeAll(async () => {
      open = await engine.open()
      return () => open.close()
    })

    async function set(statementTimeout: number, context: TestContext) {
      const { instance, begin } = await obstacle(engine, open, context)
      const locks = await instance({ ttl: TTL, statementTimeout })
      if (which === 'a later call') await (await locks.acquire(freshName())).release()
      return { locks, end: await begin() }
    }

    async function expectNoGhost(locked: string): Promise<void> {
      const others = await open.locks({ ttl: TTL })
      await eventually(async () => {
        const lease = await others.tryAcquire(locked)
        expect(lease).not.toBeNull()
        await lease!.release()
      })
    }

    it('acquire answers within its wait and a second, also behind another call of this process', async (context) => {
      const { locks, end } = await set(FAR_TIMEOUT_MS, context)
      const locked = freshName()
      const calls = [1, 2, 3].map(() => locks.acquire(locked, { wait: WAIT_MS }))
      const outcomes = await Promise.all(calls.map((call) => answerWithin(call, FAR_TIMEOUT_MS / 2)))
      await end()
      for (const outcome of outcomes) {
        expect(outcome).toMatchObject({ status: 'rejected', reason: { code: 'DATABASE' } })
        expect((outcome as PromiseRejectedResult).reason).toBeInstanceOf(LockError)
      }
      await expectNoGhost(locked)
    })

    it('tryAcquire answers within one statementTimeout', async (context) => {
      const { locks, end } = await set(TRY_TIMEOUT_MS, context)
      const locked = freshName()
      const outcome = await answerWithin(locks.tryAcquire(locked), 1.8 * TRY_TIMEOUT_MS)
      await end()
      expect(outcome).toMatchObject({ status: 'rejected', reason: { code: 'DATABASE' } })
      await expectNoGhost(locked)
    })

    it.runIf(which === 'a later call')('what is no acquire answers in time, too', async (context) => {
      const { instance, begin } = await obstacle(engine, open, context)
      const locks = await instance({ ttl: TTL, statementTimeout: TRY_TIMEOUT_MS })
      const leases = await Promise.all(Object.keys(calls).map(() => locks.acquire(freshName())))
      const end = await begin()
      const answers = Object.values(calls).map((call, index) => answerWithin(call(locks, leases[index]!), IN_TIME_MS))
      const outcomes = await Promise.allSettled(answers)
      await end()
      for (const [index, call] of Object.keys(calls).entries()) {
        const outcome = outcomes[index]!
        expect(outcome.status, call).toBe('fulfilled')
        expectAnswer((outcome as PromiseFulfilledResult<PromiseSettledResult<unknown>>).value, call)
      }
    })

    it('a signal ends the call at once, and nothing is left of it', async (context) => {
      const { locks, end } = await set(FAR_TIMEOUT_MS, context)
      const locked = freshName()
      const controller = new AbortController()
      const call = locks.acquire(locked, { wait: '10m', signal: controller.signal })
      call.catch(() => undefined)
      setTimeout(() => controller.abort(new Error('left')), 50)
      const outcome = await answerWithin(call, FAR_TIMEOUT_MS / 2)
      await end()
      expect(outcome).toMatchObject({ status: 'rejected', reason: { message: 'left' } })
      await expectNoGhost(locked)
    })
  })
}

// Engines side by side, since these tests wait for what does not come.
describe.each(servedEngines)('on $name', { concurrent: true, timeout: 60_000 }, (engine) => {
  for (const [name, obstacle] of Object.entries(obstacles)) suite(engine, name, obstacle)

  /** An instance behind a proxy, with a lease. */
  async function behindProxy(statementTimeout: number, context: TestContext) {
    const open = await engine.open()
    context.onTestFinished(() => open.close())
    const proxy = await startProxy(open.url)
    context.onTestFinished(() => proxy.close())
    const { connected, instance } = onPool(engine, proxy.through(open.url), 4, context)
    const locks = await instance({ ttl: TTL, statementTimeout })
    return { open, proxy, connected, locks, lease: await locks.acquire(freshName()) }
  }

  it.for(['release', 'extend'] as const)(
    '%s answers within one statementTimeout, though the row is locked first, and then the server falls silent',
    async (verb, context) => {
      const { open, proxy, locks, lease } = await behindProxy(TRY_TIMEOUT_MS, context)
      const commit = await openTransaction(open.connected, (tx) =>
        open.connected.sql(`select token from rowlock_locks where name = '${lease.name}' for update`, tx),
      )
      const answer = answerWithin(calls[verb]!(locks, lease), IN_TIME_MS)
      answer.catch(() => undefined)
      await sleep(ALMOST_MS)
      proxy.blackhole()
      const outcome = await settled(answer)
      proxy.restore()
      await commit()
      expect(outcome).toMatchObject({ status: 'fulfilled', value: { status: 'rejected' } })
      expectAnswer((outcome as PromiseFulfilledResult<PromiseSettledResult<unknown>>).value, verb)
    },
  )

  describe.sequential('in a transaction', () => {
    /** Falls silent when the transaction has begun, and answers what `call` is told within the limit. */
    async function inSilence(
      context: TestContext,
      statementTimeout: number,
      call: (locks: Locks<unknown>, tx: unknown, lease: Lease<unknown>) => Promise<unknown>,
      limitMs: number,
    ) {
      const { proxy, connected, locks, lease } = await behindProxy(statementTimeout, context)
      let outcome: PromiseSettledResult<unknown> | undefined
      const transaction = connected.transaction(async (tx) => {
        await connected.sql('select 1 as one', tx)
        proxy.blackhole()
        outcome = await answerWithin(call(locks, tx, lease), limitMs).finally(() => proxy.restore())
        throw new Error('undo')
      })
      await expect(transaction).rejects.toThrow('undo')
      expect(outcome).toMatchObject({ status: 'rejected', reason: { code: 'DATABASE' } })
    }

    it('guard answers within one statementTimeout', (context) =>
      inSilence(context, TRY_TIMEOUT_MS, (_, tx, lease) => lease.guard(tx), IN_TIME_MS))

    it('release answers within one statementTimeout', (context) =>
      inSilence(context, TRY_TIMEOUT_MS, (_, tx, lease) => lease.release(tx), IN_TIME_MS))

    it('tryAcquire answers within one statementTimeout', (context) =>
      inSilence(context, TRY_TIMEOUT_MS, (locks, tx) => locks.within(tx).tryAcquire(freshName()), IN_TIME_MS))

    it('acquire answers within its wait and a second', (context) =>
      inSilence(
        context,
        FAR_TIMEOUT_MS,
        (locks, tx) => locks.within(tx).acquire(freshName(), { wait: WAIT_MS }),
        FAR_TIMEOUT_MS / 2,
      ))
  })

  it('close takes two statementTimeouts at most', async (context) => {
    const { proxy, locks } = await behindProxy(TRY_TIMEOUT_MS, context)
    await locks.acquire(freshName())
    const waiting = settled(locks.acquire((await locks.list())[0]!.name))
    await eventually(async () => expect((await locks.list()).some(({ waiters }) => waiters > 0)).toBe(true))
    proxy.blackhole()
    const outcome = await answerWithin(locks.close(), 2.6 * TRY_TIMEOUT_MS)
    proxy.restore()
    expect(outcome).toMatchObject({ status: 'fulfilled' })
    await waiting
  })

  it('a transaction whose connection fell silent keeps no other one from its lock', async ({ onTestFinished }) => {
    const open = await engine.open()
    onTestFinished(() => open.close())
    const { adapter, transaction } = await open.connect()
    let asked = 0
    const locks: Locks<unknown> = createLocks(
      {
        ...(adapter as SqlAdapter<unknown>),
        // The first message in a transaction has no answer, ever.
        queryIn: (tx: unknown, statement: Statement) =>
          asked++ === 0 ? new Promise(() => {}) : (adapter as SqlAdapter<unknown>).queryIn(tx, statement),
      } as unknown as SqlAdapter<unknown>,
      { statementTimeout: '1s' },
    )
    const silent = transaction((tx) => locks.within(tx).tryAcquire(freshName()))
    await expect(silent).rejects.toMatchObject({ code: 'DATABASE' })
    await transaction(async (tx) => {
      expect(await locks.within(tx).tryAcquire(freshName())).not.toBeNull()
    })
    await locks.close()
  })
})

describe.each(enginesOnce.filter(({ connector }) => connector === 'better-sqlite3'))(
  'on $name',
  { timeout: 60_000 },
  (engine) => {
    for (const [name, obstacle] of Object.entries(fileObstacles)) suite(engine, name, obstacle)
  },
)
