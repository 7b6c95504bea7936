import { setTimeout as sleep } from 'node:timers/promises'
import Database from 'better-sqlite3'
import { beforeAll, describe, expect, it, onTestFinished } from 'vitest'
import type { SqlAdapter, Statement } from '../../src/adapters/adapter.ts'
import { createLocks, type InstanceOptions, LockError, type Locks } from '../../src/index.ts'
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
/** Of an acquire's two limits this is the far one: an answer long before is due to the wait. */
const FAR_TIMEOUT_MS = 25_000

/** Rejects if `call` takes so long that it cannot have kept to its bound, on a machine as slow as can be. */
async function answerWithin<T>(call: Promise<T>, limitMs: number): Promise<PromiseSettledResult<T>> {
  const late = sleep(limitMs, undefined, { ref: false }).then(() => {
    throw new Error(`no answer within ${limitMs} ms`)
  })
  return Promise.race([settled(call), late])
}

/** An instance on a pool of its own. */
function onPool({ engine }: TestEngine, url: string, poolSize: number) {
  const connected = (engine === 'postgres' ? connectors.pg : connectors.mysql2)(url, { poolSize })
  onTestFinished(() => connected.close())
  const instance = async (options: InstanceOptions) => {
    const locks = createLocks(connected.adapter, options)
    onTestFinished(() => locks.close())
    return locks
  }
  return { connected, instance }
}

const obstacles: Record<string, (engine: TestEngine, open: OpenEngine) => Promise<Obstacle>> = {
  'a server that does not answer': async (engine, open) => {
    const proxy = await startProxy(open.url)
    onTestFinished(() => proxy.close())
    const { instance } = onPool(engine, proxy.through(open.url), 4)
    return {
      instance,
      async begin() {
        proxy.blackhole()
        return async () => proxy.restore()
      },
    }
  },
  'a pool with nothing free': async (engine, open) => {
    const { connected, instance } = onPool(engine, open.url, 1)
    return { instance, begin: () => openTransaction(connected, async () => undefined) }
  },
  'a table that is locked': async (engine, open) => {
    const { instance } = onPool(engine, open.url, 4)
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
  describe.each(['the first call', 'a later call'])(`${name}: %s`, (which) => {
    let open: OpenEngine

    beforeAll(async () => {
      open = await engine.open()
      return () => open.close()
    })

    async function set(statementTimeout: number) {
      const { instance, begin } = await obstacle(engine, open)
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

    it('acquire answers within its wait and a second, also behind another call of this process', async () => {
      const { locks, end } = await set(FAR_TIMEOUT_MS)
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

    it('tryAcquire answers within one statementTimeout', async () => {
      const { locks, end } = await set(TRY_TIMEOUT_MS)
      const locked = freshName()
      const outcome = await answerWithin(locks.tryAcquire(locked), 1.8 * TRY_TIMEOUT_MS)
      await end()
      expect(outcome).toMatchObject({ status: 'rejected', reason: { code: 'DATABASE' } })
      await expectNoGhost(locked)
    })

    it('a signal ends the call at once, and nothing is left of it', async () => {
      const { locks, end } = await set(FAR_TIMEOUT_MS)
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

describe.each(servedEngines)('on $name', { timeout: 60_000 }, (engine) => {
  for (const [name, obstacle] of Object.entries(obstacles)) suite(engine, name, obstacle)

  it('a transaction whose connection fell silent keeps no other one from its lock', async () => {
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
