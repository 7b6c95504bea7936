import { beforeAll, describe, expect, it } from 'vitest'
import { createLocks, type GuardedQuery, type Lease, LockLostError, type Locks } from '../../src/index.ts'
import type { Isolation } from '../adapters.ts'
import { freshName } from '../engines.ts'
import { DEFAULTS, eventually, type Subject, settled, sleep } from './harness.ts'

/** How a lease ends. Of the last two its holder has not heard when it guards. */
const losses: Record<string, (lease: Lease<unknown>, others: Locks<unknown>) => Promise<unknown>> = {
  'was released': (lease) => lease.release(),
  'ran out': (lease) => eventually(() => expect(lease.isHeld()).toBe(false)),
  'ran out and was taken over': (lease, others) => others.acquire(lease.name),
  'was force-released': (lease, others) => others.forceRelease(lease.name),
  'was released and taken by somebody else': async (lease, others) => {
    const copy = await others.restore(lease.toJSON())
    await copy.release()
    await others.acquire(lease.name)
  },
}

export function guardSuite(subject: Subject): void {
  const { engine } = subject
  const hasSql = engine.engine !== 'memory'
  const isPostgres = engine.engine === 'postgres'
  const isolations = engine.isolations.length === 0 ? [undefined] : engine.isolations
  /** Whether others can change anything while a transaction that has written is open. */
  const isConcurrent = engine.shared && engine.engine !== 'sqlite'

  beforeAll(async () => {
    if (hasSql) await subject.connected.sql('create table writes (note varchar(100) not null)')
  })

  const write = async (note: string, tx: unknown) => {
    if (hasSql) await subject.connected.sql(insert(note).text, tx)
  }
  const written = async (note: string): Promise<boolean> => {
    const rows = await subject.connected.sql(`select note from writes where note = '${note}'`)
    return rows.length === 1
  }
  const guardedWrite = (lease: Lease<unknown>, isolation?: Isolation) =>
    subject.connected.transaction(async (tx) => {
      await write(`${lease.name} before`, tx)
      await lease.guard(tx)
      await write(lease.name, tx)
    }, isolation)
  const acquireFor = (loss: string) =>
    subject.locks.acquire(freshName(), loss.startsWith('ran out') ? { ttl: '200ms', renew: false } : {})

  describe.each(isolations)('in a transaction at %s', (isolation) => {
    it('passes while the lease stands', async () => {
      const lease = await subject.locks.acquire(freshName())
      await guardedWrite(lease, isolation)
      if (hasSql) expect(await written(lease.name)).toBe(true)
      expect(lease.isHeld()).toBe(true)
      expect(await lease.release()).toBe(true)
    })

    it.each(Object.keys(losses))('rolls the transaction back after the lease %s', async (loss) => {
      const { others } = subject
      const lease = await acquireFor(loss)
      await losses[loss]!(lease, others)
      await expect(guardedWrite(lease, isolation)).rejects.toBeInstanceOf(LockLostError)
      await expect(guardedWrite(lease, isolation)).rejects.toMatchObject({ code: 'LOCK_LOST', lock: lease.name })
      if (hasSql) expect([await written(lease.name), await written(`${lease.name} before`)]).toEqual([false, false])
      expect(lease.isHeld()).toBe(false)
      if (loss !== 'was released') expect(lease.signal.aborted).toBe(true)
    })

    it.runIf(isConcurrent)('notices a loss that is later than the snapshot of the transaction', async () => {
      const { locks, others, connected } = subject
      for (const loss of ['was force-released', 'was released and taken by somebody else']) {
        const lease = await locks.acquire(freshName())
        const committing = connected.transaction(async (tx) => {
          await connected.sql('select count(*) from writes', tx)
          await losses[loss]!(lease, others)
          await lease.guard(tx)
        }, isolation)
        await expect(committing).rejects.toMatchObject({ code: 'LOCK_LOST' })
        expect(lease.isHeld()).toBe(false)
        expect(lease.signal.aborted).toBe(true)
      }
    })

    it.runIf(isConcurrent)('passes although the snapshot shows an expiry that renewals have moved since', async () => {
      const { locks, connected } = subject
      const terms = { ttl: '900ms', renew: false } as const
      const [lease, folded] = [await locks.acquire(freshName(), terms), await locks.acquire(freshName(), terms)]
      await connected.transaction(async (tx) => {
        await connected.sql('select count(*) from writes', tx)
        await lease.extend('1m')
        await folded.extend('1m')
        await sleep(1000)
        await lease.guard(tx)
        await folded.guarded(tx, insert(folded.name))
      }, isolation)
      expect(await written(folded.name)).toBe(true)
      expect([await lease.release(), await folded.release()]).toEqual([true, true])
    })

    it('keeps others out until the transaction ends, even past the expiry', async () => {
      const { locks, others, connected } = subject
      const lease = await locks.acquire(freshName(), { ttl: '900ms', renew: false })
      let taken = false
      const taking: { over?: Promise<Lease<unknown>> } = {}
      await connected.transaction(async (tx) => {
        await lease.guard(tx)
        taking.over = others.acquire(lease.name)
        taking.over.then(
          () => {
            taken = true
          },
          () => undefined,
        )
        await sleep(1000)
        expect(taken).toBe(false)
        await write(lease.name, tx)
      }, isolation)
      const next = await taking.over!
      expect(next.token).toBeGreaterThan(lease.token)
      if (hasSql) expect(await written(lease.name)).toBe(true)
      await next.release()
    })

    it('changes nothing about the lease when the transaction rolls back', async () => {
      const { locks, others, connected } = subject
      const lease = await locks.acquire(freshName())
      const failure = new Error('the body failed')
      const committing = connected.transaction(async (tx) => {
        await lease.guard(tx)
        throw failure
      }, isolation)
      await expect(committing).rejects.toBe(failure)
      expect(lease.isHeld()).toBe(true)
      expect(await others.tryAcquire(lease.name)).toBeNull()
      await lease.extend('1m')
      expect(await lease.release()).toBe(true)
    })

    it.runIf(hasSql)('runs a query along with the guard, and answers its rows', async () => {
      const { locks, connected } = subject
      const lease = await locks.acquire(freshName())
      const note = lease.name
      await connected.transaction(async (tx) => {
        expect(await lease.guarded(tx, insert(note))).toEqual([])
        const text = `select note from writes where note = ${isPostgres ? '$1' : '?'}`
        const query = { sql: text, parameters: [note] }
        expect(await lease.guarded(tx, { text, values: [note] })).toEqual([{ note }])
        expect(await lease.guarded(tx, query)).toEqual([{ note }])
        expect(await lease.guarded(tx, { compile: () => query })).toEqual([{ note }])
        expect(await lease.guarded(tx, { text: `${text};`, values: ['another'] })).toEqual([])
      }, isolation)
      expect(await written(note)).toBe(true)
      await lease.release()
    })

    it.runIf(hasSql).each(Object.keys(losses))(
      'undoes the query, whatever the caller does then, after the lease %s',
      async (loss) => {
        const { others, connected } = subject
        const lease = await acquireFor(loss)
        await losses[loss]!(lease, others)
        const commit = connected.transaction(async (tx) => {
          await expect(lease.guarded(tx, insert(lease.name))).rejects.toMatchObject({ code: 'LOCK_LOST' })
        }, isolation)
        await settled(commit)
        expect(await written(lease.name)).toBe(false)
        expect(lease.isHeld()).toBe(false)
        if (loss !== 'was released') expect(lease.signal.aborted).toBe(true)
      },
    )

    it.runIf(isPostgres)('lets nothing of the transaction commit after the query was undone', async () => {
      const { locks, others, connected } = subject
      const lease = await locks.acquire(freshName())
      await others.forceRelease(lease.name)
      const commit = connected.transaction(async (tx) => {
        await write(`${lease.name} before`, tx)
        await settled(lease.guarded(tx, insert(lease.name)))
      }, isolation)
      await settled(commit)
      expect([await written(lease.name), await written(`${lease.name} before`)]).toEqual([false, false])
    })
  })

  it('guards several leases in one transaction, and one lease several times', async () => {
    const { locks, others, connected } = subject
    const [one, two] = [await locks.acquire(freshName()), await locks.acquire(freshName())]
    const guardBoth = () =>
      connected.transaction(async (tx) => {
        await one.guard(tx)
        await two.guard(tx)
        await one.guard(tx)
      })
    await guardBoth()
    await others.forceRelease(two.name)
    await expect(guardBoth()).rejects.toMatchObject({ code: 'LOCK_LOST', lock: two.name })
    expect(one.isHeld()).toBe(true)
    await one.release()
  })

  it('refuses what is no open transaction', async () => {
    const { locks, connected } = subject
    const lease = await locks.acquire(freshName())
    const refused = async (handle: unknown, what: string) => {
      const query = insert(lease.name)
      const calls = [
        async () => lease.guard(handle),
        async () => lease.guarded(handle, query),
        // Without a handle it is a release by itself.
        ...(handle === undefined ? [] : [async () => lease.release(handle)]),
        async () => locks.within(handle).tryAcquire(freshName()),
        async () => locks.within(handle).lease(freshName()),
      ]
      for (const call of calls) {
        expect(await settled<unknown>(call()), what).toMatchObject({
          status: 'rejected',
          reason: { code: 'INVALID_ARGUMENT' },
        })
      }
    }
    await connected.withoutTransaction(refused)
    await refused(undefined, 'undefined')
    await refused(null, 'null')
    await refused({}, 'an object')
    await refused('tx', 'text')
    if (hasSql) expect(await written(lease.name)).toBe(false)
    expect(lease.isHeld()).toBe(true)
    expect(await lease.release()).toBe(true)
  })

  it.runIf(hasSql)('passes on the error of a query that is wrong, unchanged', async () => {
    const { locks, connected } = subject
    const lease = await locks.acquire(freshName())
    const query: GuardedQuery = { text: 'select * from no_such_table_of_the_user', values: [] }
    const error = await connected.transaction((tx) => lease.guarded(tx, query)).catch((error: unknown) => error)
    expect(error).toBeInstanceOf(Error)
    expect((error as Error).message).toContain('no_such_table_of_the_user')
    expect((error as Error).name).not.toMatch(/^(Lock|Database)/)
    expect(lease.isHeld()).toBe(true)
    await lease.release()
  })

  it.runIf(isPostgres)('takes any statement but one that begins with WITH', async () => {
    const { locks, connected } = subject
    const lease = await locks.acquire(freshName())
    const run = (text: string, values: readonly unknown[] = []) =>
      connected.transaction((tx) => lease.guarded(tx, { text, values }))
    await expect(run('with one as (select 1) select * from one')).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' })
    const note = lease.name
    expect(await run('insert into writes (note) values ($1) returning note, 1 as one', [note])).toEqual([
      { note, one: 1 },
    ])
    expect(await run("insert into writes (note) values ('returning') -- the end")).toEqual([])
    expect(await run("update writes set note = 'with' where note = 'returning'")).toEqual([])
    expect(await run('values (1), (2)')).toEqual([{ column1: 1 }, { column1: 2 }])
    expect(await run("delete from writes where note = 'with' returning note")).toEqual([{ note: 'with' }])
    expect(await run("delete from writes where note = 'nothing' returning note")).toEqual([])
    await lease.release()
  })

  it.runIf(isPostgres && isConcurrent)('tells a conflict over the data of the caller from a lost lease', async () => {
    const { locks, connected } = subject
    const lease = await locks.acquire(freshName())
    await write(lease.name, undefined)
    const committing = connected.transaction(async (tx) => {
      await connected.sql('select count(*) from writes', tx)
      await connected.sql(`update writes set note = '${lease.name} 2' where note = '${lease.name}'`)
      await lease.guarded(tx, {
        text: 'update writes set note = $1 where note like $2',
        values: ['3', `${lease.name}%`],
      })
    }, 'repeatable read')
    await expect(committing).rejects.toMatchObject({ code: 'TRANSACTION_ABORTED' })
    expect(lease.isHeld()).toBe(true)
    expect(await lease.release()).toBe(true)
  })

  it.runIf(isPostgres && isConcurrent)('tells a transaction that cannot be serialized from a lost lease', async () => {
    const { locks, connected } = subject
    const lease = await locks.acquire(freshName())
    const countWrites = 'select count(*) from writes'
    const committing = connected.transaction(async (tx) => {
      await connected.sql(countWrites, tx)
      await write(lease.name, tx)
      await connected.transaction(async (other) => {
        await connected.sql(countWrites, other)
        await write(`${lease.name} other`, other)
      }, 'serializable')
      await lease.guard(tx)
    }, 'serializable')
    await expect(committing).rejects.toMatchObject({ code: 'TRANSACTION_ABORTED' })
    expect(lease.isHeld()).toBe(true)
    expect(await lease.release()).toBe(true)
  })

  it.skipIf(hasSql)('says that the in-memory engine runs no queries', async () => {
    const { locks, connected } = subject
    const lease = await locks.acquire(freshName())
    const running = connected.transaction((tx) => lease.guarded(tx, insert('x')))
    await expect(running).rejects.toMatchObject({ code: 'UNSUPPORTED' })
    await lease.release()
  })

  it('does not hang when the lease is released inside the transaction that it guards', async () => {
    const { others, connected } = subject
    const locks = createLocks(connected.adapter, { ...DEFAULTS, statementTimeout: '500ms' })
    const lease = await locks.acquire(freshName())
    await connected.transaction(async (tx) => {
      await lease.guard(tx)
      const outcome = await settled(lease.release())
      if (outcome.status === 'fulfilled') expect(outcome.value).toBe(true)
      else expect(outcome.reason.message).toContain('transaction')
      expect(lease.isHeld()).toBe(false)
    })
    expect(await lease.release()).toBe(true)
    await (await others.acquire(lease.name)).release()
    await locks.close()
  })

  it.runIf(engine.server !== undefined)(
    'works with a pool of one connection, also while the lease is renewed',
    async () => {
      const connected = await subject.database.connect({ poolSize: 1 })
      const locks = createLocks(connected.adapter, { ...DEFAULTS, ttl: '3s' })
      const lease = await locks.acquire(freshName())
      for (let round = 0; round < 3; round++) {
        await connected.transaction(async (tx) => {
          await lease.guard(tx)
          await sleep(500)
          await connected.sql(insert(lease.name).text, tx)
        })
      }
      expect(lease.isHeld()).toBe(true)
      expect(await lease.release()).toBe(true)
      await locks.close()
    },
  )
}

function insert(note: string): { readonly text: string; readonly values: readonly unknown[] } {
  return { text: `insert into writes (note) values ('${note}')`, values: [] }
}
