import { join } from 'node:path'
import Database from 'better-sqlite3'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import type { SqlAdapter } from '../../src/adapters/adapter.ts'
import { fromBetterSqlite3 } from '../../src/adapters/better-sqlite3.ts'
import { newOwner } from '../../src/protocol/ids.ts'
import { type Attempt, EXCLUSIVE, type Hold, SHARED, type Store } from '../../src/protocol/store.ts'
import { freshName, type OpenEngine } from '../engines.ts'
import { routed } from '../statements.ts'
import { storeOn } from '../store/store-on.ts'
import { sharedEngines } from './one-per-engine.ts'
import { LEDGER, PERMITS } from './permits.ts'
import { endProcesses, startScript } from './processes.ts'

const PROCESSES = 4
const CROWD_MS = 3000
const TTL_MS = 60_000
const SHORT_MS = 100
const READER = { weight: SHARED, permits: null } as const
const WRITER = EXCLUSIVE
const RELEASED = { outcome: 'released' }
const LOCKED = { outcome: 'locked' }

/** What lock-row.ts decides by a row that was read is written if nothing came in between. */
describe.each(sharedEngines.filter(({ connector }) => connector === 'better-sqlite3'))('on $name', (engine) => {
  let open: OpenEngine
  let store: Store<unknown>
  /** Of another process. */
  let others: Store<unknown>
  /** The store's connection, on which something happens before a statement that writes. */
  let interrupted: Store<unknown>
  let beforeWrites: (() => Promise<unknown>)[] = []

  beforeAll(async () => {
    open = await engine.open()
    store = storeOn(open.connected.adapter)
    others = storeOn((await open.connect()).adapter)
    const { adapter } = await open.connect()
    interrupted = storeOn(
      routed(adapter as SqlAdapter<unknown>, async (statement, forward) => {
        if (statement.text.includes('insert into')) await beforeWrites.shift()?.()
        return forward()
      }),
    )
  })
  afterAll(async () => {
    await endProcesses()
    await open.close()
  })

  const asked = (name: string, terms: Partial<Attempt>): Attempt => {
    return { ...READER, name, owner: newOwner(), ttlMs: TTL_MS, holder: 'test', session: null, ...terms }
  }

  async function acquire(name: string, terms: Partial<Attempt>, by = others): Promise<Hold> {
    const attempt = asked(name, terms)
    const [result] = await by.acquire([attempt])
    if (!result!.granted) throw new Error(`${name} was not granted`)
    const { token, slot } = result!
    return { name, owner: attempt.owner, token, ...(slot !== undefined && { slot }) }
  }

  /** In which nobody else writes. */
  const inTransaction = (body: (tx: unknown) => Promise<unknown>) => open.connected.transaction(body)

  it('what was decided is decided again if another was faster', async () => {
    const name = freshName()
    const terms = { weight: 3, permits: 5 }
    beforeWrites = [() => acquire(name, { ...terms, holder: 'another' })]
    expect(await interrupted.acquire([asked(name, terms)])).toMatchObject([{ granted: false, holders: ['another'] }])
    expect(await store.available(name)).toBe(2)
  })

  it.each([
    {
      what: 'a reader',
      comes: (name: string): Promise<unknown> => acquire(name, { holder: 'another' }),
      answer: { holders: ['another'] },
    },
    {
      what: 'a semaphore',
      comes: (name: string): Promise<unknown> => others.openSemaphore(name, 5),
      answer: { kind: { permits: 5 } },
    },
  ])('who wants all of a lock sees $what that came in between', async ({ comes, answer }) => {
    const name = freshName()
    beforeWrites = [() => comes(name)]
    expect(await interrupted.acquire([asked(name, WRITER)])).toMatchObject([{ granted: false, ...answer }])
    await inTransaction(async (tx) => {
      const within = { ...asked(name, WRITER), ...WRITER }
      expect(await store.acquireIn(tx, within, 0)).toMatchObject({ granted: false, ...answer })
    })
  })

  it('what others wrote in between stays', async () => {
    const name = freshName()
    const one = await acquire(name, {})
    let two: Hold | undefined
    beforeWrites = [
      async () => {
        two = await acquire(name, {})
      },
    ]
    expect(await interrupted.renew([{ ...one, ttlMs: 2 * TTL_MS }])).toMatchObject([{ outcome: 'renewed' }])
    const [view] = await others.poll([name])
    expect(view!.holders).toMatchObject([one, two!])
    expect(view!.holders[0]!.remainingMs).toBeGreaterThan(TTL_MS)
  })

  it('a writer that has seen a reader run out does not get in beside its guard', async () => {
    const name = freshName()
    const reader = await acquire(name, { ttlMs: SHORT_MS })
    const attempt = asked(name, WRITER)
    await inTransaction(async (tx) => {
      expect(await store.guard(tx, [{ ...reader, ttlMs: SHORT_MS }])).toEqual(['stands'])
      await expect.poll(async () => (await others.poll([name]))[0]?.holders).toEqual([])
      await expect(others.acquire([attempt])).rejects.toMatchObject({ failure: 'conflict' })
    })
    expect(await others.acquire([attempt])).toMatchObject([{ granted: true, takeover: true }])
  })

  it.each([
    { end: 'commit', undo: undefined, takeover: false },
    { end: 'rollback', undo: new Error('undo'), takeover: true },
  ])('what a transaction has adopted counts until its $end, though it runs out', async ({ undo, takeover }) => {
    const name = freshName()
    const reader = await acquire(name, { ttlMs: SHORT_MS })
    const attempt = asked(name, WRITER)
    const transaction = inTransaction(async (tx) => {
      expect(await store.adoptIn(tx, reader)).toBe('stands')
      expect(await store.adoptIn(tx, reader)).toBe('lost')
      expect(await store.guard(tx, [{ ...reader, ttlMs: SHORT_MS }])).toEqual(['lost'])
      await expect.poll(async () => (await others.poll([name]))[0]?.holders).toEqual([])
      await expect(others.acquire([attempt])).rejects.toMatchObject({ failure: 'conflict' })
      if (undo) throw undo
    })
    await (undo ? expect(transaction).rejects.toBe(undo) : transaction)
    await inTransaction(async (tx) => expect(await store.adoptIn(tx, reader)).toBe('lost'))
    expect(await others.acquire([attempt])).toMatchObject([{ granted: true, takeover }])
  })

  it('a guard in a deferred transaction that has read keeps out whoever comes after it', async () => {
    const reader = await acquire(freshName(), {})
    const database = new Database(open.url)
    const own = storeOn(fromBetterSqlite3(database))
    database.exec('begin; select * from rowlock_locks')
    expect(await own.guard(database, [{ ...reader, ttlMs: TTL_MS }])).toEqual(['stands'])
    await expect(others.release([reader], '1')).rejects.toMatchObject({ failure: 'conflict' })
    database.exec('commit')
    expect(await others.release([reader], '1')).toMatchObject([RELEASED])
    database.exec('begin')
    database.prepare('select * from rowlock_locks').all()
    await acquire(freshName(), {})
    // What it has read is not so any more.
    await expect(async () => own.guard(database, [{ ...reader, ttlMs: TTL_MS }])).rejects.toMatchObject({
      code: 'TRANSACTION_ABORTED',
    })
    database.close()
  })

  describe('a call that has had an effect is not repeated: of the rest it says that they are locked', () => {
    it('if exclusive holds were released before it', async () => {
      const [lock, shared] = [freshName(), freshName()]
      const holds = [await acquire(shared, {}), await acquire(lock, WRITER)]
      await whileBusy(holds, [LOCKED, RELEASED])
    })

    it('if shared holds were released before it', async () => {
      const [one, two] = [freshName(), freshName()]
      const holds = [await acquire(one, {}), await acquire(two, {})]
      // Of two only one is written, and then the file is busy.
      let joined: Hold | undefined
      beforeWrites = [
        async () => {
          joined = await acquire(one, {})
        },
      ]
      await whileBusy(holds, [LOCKED, RELEASED])
      expect(await others.release([joined!], '1')).toMatchObject([RELEASED])
    })

    /** The file is busy from the next write on, and until all is answered. */
    async function whileBusy(holds: readonly Hold[], outcomes: readonly object[]): Promise<void> {
      const busy = new Database(open.url)
      beforeWrites.push(async () => busy.exec('begin immediate'))
      expect(await interrupted.release(holds, '1')).toMatchObject(outcomes)
      busy.close()
      const locked = holds.filter((_, index) => outcomes[index] === LOCKED)
      expect(await others.release(locked, '1')).toMatchObject(locked.map(() => RELEASED))
    }
  })

  describe('a crowd of several processes', () => {
    const crowd = async (way: 'store' | 'count') => {
      const book = join(open.url, '..', `${way}.ledger`)
      const ledger = new Database(book)
      ledger.pragma('journal_mode = wal')
      ledger.exec(LEDGER.create)
      const name = freshName()
      const args = [way, open.url, book, name, `${CROWD_MS}`]
      const scripts = Array.from({ length: PROCESSES }, () => startScript('permits-script.ts', ...args))
      const ends = await Promise.all(scripts.map(({ ended }) => ended))
      expect(scripts.map(({ errors }) => errors())).toEqual(scripts.map(() => ''))
      expect(ends).toEqual(ends.map(() => 0))
      const sums = ledger.prepare(LEDGER.read).get() as { taken: number; most: number; granted: number }
      ledger.close()
      return { name, ...sums }
    }

    it('never has more permits than there are', { timeout: 120_000 }, async () => {
      const { name, taken, most, granted } = await crowd('store')
      expect({ taken, available: await store.available(name) }).toEqual({ taken: 0, available: PERMITS })
      expect(most).toBeGreaterThan(PERMITS / 2)
      expect(most).toBeLessThanOrEqual(PERMITS)
      expect(granted).toBeGreaterThan(PROCESSES)
    })

    it('has more where each counts, and then writes', { timeout: 120_000 }, async () => {
      expect((await crowd('count')).most).toBeGreaterThan(PERMITS)
    })
  })
})
