import { setTimeout as sleep } from 'node:timers/promises'
import { afterEach, describe, expect, it } from 'vitest'
import type { SqlAdapter } from '../../src/adapters/adapter.ts'
import { createLocks, type Locks } from '../../src/index.ts'
import { eventually, openTransaction, recordEvents } from '../contract/harness.ts'
import { engines, freshName, type OpenEngine, type TestEngine } from '../engines.ts'

const served = engines().filter(({ server }) => server !== undefined)
const postgres = served.filter(({ engine }) => engine === 'postgres')
const innodb = served.filter(({ engine }) => engine === 'mysql')

const closing: (() => Promise<unknown>)[] = []
afterEach(async () => {
  for (const close of closing.splice(0).reverse()) await close()
})

async function setUp(engine: TestEngine) {
  const open = await engine.open()
  closing.push(() => open.close())
  const locks = createLocks(open.connected.adapter)
  closing.push(() => locks.close())
  return { open, locks, others: await open.locks() }
}

/** Another transaction has the lock for so long. */
async function occupied(
  open: OpenEngine,
  locks: Locks<unknown>,
  name: string,
  ms: number,
): Promise<() => Promise<void>> {
  let resolve: () => void = () => undefined
  const taken = new Promise<void>((done) => {
    resolve = done
  })
  const holding = open.connected.transaction(async (tx) => {
    await locks.within(tx).acquire(name)
    resolve()
    await sleep(ms)
  })
  await Promise.race([taken, holding])
  return () => holding
}

describe.each(postgres)(
  'limits of the session that are shorter than a wait, on $name',
  { timeout: 60_000 },
  (engine) => {
    it.each(['statement_timeout', 'lock_timeout'])(
      '%s does not end a wait in the database, and stays',
      async (limit) => {
        const { open, locks } = await setUp(engine)
        const name = freshName()
        const ended = await occupied(open, locks, name, 1500)
        await open.connected.transaction(async (tx) => {
          await open.connected.sql(`set local ${limit} = '400ms'`, tx)
          await locks.within(tx).acquire(name, { wait: '20s' })
          expect(await open.connected.sql(`show ${limit}`, tx)).toEqual([{ [limit]: '400ms' }])
        })
        await ended()
      },
    )

    it.each(['statement_timeout', 'lock_timeout'])(
      'with %s a wait that is over leaves a usable transaction',
      async (limit) => {
        const { open, locks } = await setUp(engine)
        const name = freshName()
        const ended = await occupied(open, locks, name, 1500)
        await open.connected.transaction(async (tx) => {
          await open.connected.sql(`set local ${limit} = '300ms'`, tx)
          await expect(locks.within(tx).acquire(name, { wait: 700 })).rejects.toMatchObject({ code: 'LOCK_TIMEOUT' })
          expect(await open.connected.sql('select 1 as one', tx)).toEqual([{ one: 1 }])
        })
        await ended()
      },
    )

    it('idle_in_transaction_session_timeout does not end a transaction that waits for a lease', async () => {
      const { open, locks, others } = await setUp(engine)
      const name = freshName()
      const lease = await others.acquire(name)
      await open.connected.transaction(async (tx) => {
        await open.connected.sql("set local idle_in_transaction_session_timeout = '700ms'", tx)
        const releasing = sleep(2500).then(() => lease.release())
        await locks.within(tx).acquire(name, { wait: '20s' })
        expect(await releasing).toBe(true)
      })
    })

    it.runIf(engine.server?.name === 'postgres18')(
      'transaction_timeout aborts the transaction, and says so',
      async () => {
        const { open, locks } = await setUp(engine)
        const name = freshName()
        const ended = await occupied(open, locks, name, 2000)
        let said: unknown
        const waiting = open.connected.transaction(async (tx) => {
          await open.connected.sql("set local transaction_timeout = '500ms'", tx)
          await locks
            .within(tx)
            .acquire(name, { wait: '20s' })
            .catch((error: unknown) => {
              said = error
            })
        })
        // The session is gone, too.
        await expect(waiting).rejects.toThrow()
        expect(said).toMatchObject({ code: 'TRANSACTION_ABORTED' })
        await ended()
        await (await locks.acquire(name)).release()
      },
    )

    it('a level that the caller names is believed, and saves asking for it', async () => {
      const { open, locks } = await setUp(engine)
      const adapter = open.connected.adapter as { queryIn(tx: unknown, statement: { text: string }): unknown }
      const sent: string[] = []
      const listed = {
        ...adapter,
        queryIn(tx: unknown, statement: { text: string }) {
          sent.push(statement.text)
          return adapter.queryIn(tx, statement)
        },
      }
      await using counted = createLocks(listed as unknown as SqlAdapter<unknown>)
      await open.connected.transaction(async (tx) => {
        await counted.within(tx, { isolation: 'read committed' }).acquire(freshName())
        expect(sent).toHaveLength(1)
        await counted.within(tx).acquire(freshName())
        expect(sent).toHaveLength(3)
      })
      expect(() => locks.within({}, { isolation: 'chaos' as never })).toThrow(/isolation must be one of/)
    })
  },
)

describe.each(innodb)('limits of the session that are shorter than a wait, on $name', { timeout: 60_000 }, (engine) => {
  it('innodb_lock_wait_timeout does not end a wait in the database, and stays', async () => {
    const { open, locks } = await setUp(engine)
    const name = freshName()
    const ended = await occupied(open, locks, name, 2600)
    await open.connected.transaction(async (tx) => {
      await open.connected.sql('set session innodb_lock_wait_timeout = 1', tx)
      await locks.within(tx).acquire(name, { wait: '20s' })
      const [row] = await open.connected.sql('select @@session.innodb_lock_wait_timeout as seconds', tx)
      expect(Number(row?.seconds)).toBe(1)
      await open.connected.sql('set session innodb_lock_wait_timeout = default', tx)
    })
    await ended()
  })
})

describe.each(innodb)('a name that an open transaction has created, on $name', { timeout: 60_000 }, (engine) => {
  it("is not waited for by rowlock's own connection, nor by a try, and a wait ends with that transaction", async () => {
    const { open, locks } = await setUp(engine)
    const events = recordEvents(locks)
    const lease = await locks.acquire(freshName(), { ttl: 600 })
    const name = freshName()
    const user = await open.connect()
    const commit = await openTransaction(user, (tx) =>
      user.sql(`insert into rowlock_locks (name, token, expires_at) values ('${name}', 1, 0)`, tx),
    )
    let taken = false
    const waiting = open.connected.transaction(async (tx) => {
      await locks.within(tx).acquire(name, { wait: '40s' })
      taken = true
    })
    await open.connected.transaction(async (tx) => {
      expect(await locks.within(tx).tryAcquire(name)).toBeNull()
    })
    const renewals = () => events.filter(({ type }) => type === 'renewed').length
    const before = renewals()
    await eventually(() => expect(renewals()).toBeGreaterThan(before + 5))
    expect([taken, lease.isHeld()]).toEqual([false, true])
    await commit()
    await waiting
    expect(await lease.release()).toBe(true)
  })
})

describe.each(engines().filter(({ engine }) => engine === 'mysql'))('on $name', { timeout: 60_000 }, (engine) => {
  it('a connection whose transaction rolled back waits for nobody in the next one, at SERIALIZABLE', async () => {
    const { open, locks, others } = await setUp(engine)
    const single = await open.connect({ poolSize: 1 })
    const inSingle = createLocks(single.adapter, { wait: 300 })
    const name = freshName()
    const rolledBack = single.transaction(async (tx) => {
      await inSingle.within(tx).acquire(name)
      throw new Error('undo')
    }, 'serializable')
    await expect(rolledBack).rejects.toThrow('undo')
    const ended = await occupied(open, locks, name, 3000)
    await single.transaction(async (tx) => {
      expect(await inSingle.within(tx).tryAcquire(name)).toBeNull()
      await expect(inSingle.within(tx).acquire(name)).rejects.toMatchObject({ code: 'LOCK_TIMEOUT' })
      expect(await single.sql('select 1 as one', tx)).toEqual([{ one: 1 }])
      // The other transaction is still there.
      expect(await others.tryAcquire(name)).toBeNull()
    }, 'serializable')
    await ended()
    await inSingle.close()
  })
})

describe.each(innodb)('a name that is new, on $name', { timeout: 60_000 }, (engine) => {
  /** Each transaction has the only connection that its instance may use. */
  async function alone(open: OpenEngine) {
    const connected = await open.connect({ poolSize: 1 })
    const locks = createLocks(connected.adapter, { ownConnection: false })
    closing.push(() => locks.close())
    return { connected, locks }
  }

  it.each(engine.isolations)('a try does not wait for the transaction that is creating it, at %s', async (level) => {
    const { open } = await setUp(engine)
    const [one, other] = [await alone(open), await alone(open)]
    const name = freshName()
    let tried: unknown
    let usable: unknown
    await one.connected.transaction(async (tx) => {
      expect(await one.locks.within(tx).tryAcquire(name)).not.toBeNull()
      await other.connected.transaction(async (second) => {
        tried = await other.locks.within(second).tryAcquire(name)
        usable = await other.connected.sql('select 1 as one', second)
      }, level)
    }, level)
    expect(tried).toBeNull()
    expect(usable).toEqual([{ one: 1 }])
  })

  it('a try for a lease answers within one statementTimeout, while a transaction is creating it', async () => {
    const { open } = await setUp(engine)
    const one = await alone(open)
    const locks = await open.locks({ statementTimeout: '4s' })
    const [name, neighbour] = [freshName(), freshName()]
    // What keeps one of them waiting does not keep the others from being created.
    await (await locks.acquire(freshName())).release()
    let tries: PromiseSettledResult<unknown>[] = []
    await one.connected.transaction(async (tx) => {
      expect(await one.locks.within(tx).tryAcquire(name)).not.toBeNull()
      tries = await Promise.allSettled([locks.tryAcquire(name), locks.tryAcquire(neighbour)])
    }, 'read committed')
    // MySQL cannot limit how long it waits.
    if (engine.server?.name === 'mariadb') {
      expect(tries).toMatchObject([{ value: null }, { value: { name: neighbour } }])
    } else {
      expect(tries[0]).toMatchObject({ reason: { code: 'DATABASE' } })
    }
    await eventually(async () => {
      const lease = await locks.tryAcquire(name)
      expect(lease).not.toBeNull()
      await lease!.release()
    })
  })

  it('a try does not wait for the transaction that is creating its neighbour, at read committed', async () => {
    const { open } = await setUp(engine)
    const [one, other] = [await alone(open), await alone(open)]
    const name = freshName()
    let tried: unknown
    await one.connected.transaction(async (tx) => {
      expect(await one.locks.within(tx).tryAcquire(name)).not.toBeNull()
      await other.connected.transaction(async (second) => {
        tried = await other.locks.within(second).tryAcquire(`${name}:neighbour`)
      }, 'read committed')
    }, 'read committed')
    expect(tried).toMatchObject({ name: `${name}:neighbour` })
  })
})

/** One handle serves all transactions, so that nothing tells one from the next. */
const servesAll = ({ connector }: TestEngine) => connector === 'better-sqlite3' || connector === 'node-sqlite'

describe.each(engines())('the same name twice in one transaction, on $name', { timeout: 60_000 }, (engine) => {
  it('is the same hold', async () => {
    const { open, locks } = await setUp(engine)
    const name = freshName()
    await open.connected.transaction(async (tx) => {
      const [first, second] = await Promise.all([locks.within(tx).acquire(name), locks.within(tx).acquire(name)])
      const third = await locks.within(tx).acquire(name)
      // A handle that serves all transactions does not tell one from the next.
      if (servesAll(engine)) expect(third.token).toBeGreaterThan(first.token)
      else expect([second.token, third.token]).toEqual([first.token, first.token])
    })
    await (await locks.acquire(name)).release()
  })

  it.skipIf(servesAll(engine))('is had by who waits for it as soon as a call that does not wait gets it', async () => {
    const { open, locks } = await setUp(engine)
    for (let round = 0; round < 10; round++) {
      const name = freshName()
      await locks.acquire(name, { ttl: 100, renew: false })
      await open.connected.transaction(async (tx) => {
        const waiting = locks.within(tx).acquire(name, { wait: '20s' })
        const trying = async () => {
          for (;;) {
            const tried = await locks.within(tx).tryAcquire(name)
            if (tried !== null) return tried
          }
        }
        const [waited, tried] = await Promise.all([waiting, trying()])
        expect(waited.token).toBe(tried.token)
      }, 'read committed')
    }
  })

  it.skipIf(servesAll(engine))('is the same hold as a lease, too, which lasts beyond the commit', async () => {
    const { open, locks } = await setUp(engine)
    const name = freshName()
    const pending = await open.connected.transaction(async (tx) => {
      const hold = await locks.within(tx).acquire(name)
      const first = await locks.within(tx).lease(name)
      const second = await locks.within(tx).lease(name)
      const again = await locks.within(tx).acquire(name)
      expect(await locks.within(tx).tryAcquire(name)).toEqual(again)
      expect([first.token, second.token, again.token]).toEqual([hold.token, hold.token, hold.token])
      expect(second.owner).toBe(first.owner)
      return second
    })
    const lease = await pending.confirm()
    expect(await locks.tryAcquire(name)).toBeNull()
    await lease.release()
  })

  it.skipIf(servesAll(engine))('is none of a transaction that has the name after a rollback', async () => {
    const { open, locks } = await setUp(engine)
    const name = freshName()
    const rolledBack = open.connected.transaction(async (tx) => {
      await locks.within(tx).lease(name)
      throw new Error('undo')
    })
    await expect(rolledBack).rejects.toThrow('undo')
    await open.connected.transaction(async (tx) => {
      const { token } = await locks.within(tx).acquire(name)
      expect((await locks.within(tx).acquire(name)).token).toBe(token)
    })
    await (await locks.acquire(name)).release()
  })

  it.skipIf(engine.engine === 'memory')('is another hold if the first was undone with a savepoint', async () => {
    const { open, locks } = await setUp(engine)
    const { sql, transaction } = open.connected
    const name = freshName()
    const before = await locks.acquire(name)
    await before.release()
    const pending = await transaction(async (tx) => {
      await sql('savepoint undone', tx)
      await locks.within(tx).acquire(name)
      await sql('rollback to savepoint undone', tx)
      const hold = await locks.within(tx).acquire(name)
      const [row] = await sql(`select token from rowlock_locks where name = '${name}'`, tx)
      expect(hold.token).toBeGreaterThan(before.token)
      expect(BigInt(row!.token as string)).toBe(hold.token)
      return servesAll(engine) ? undefined : locks.within(tx).lease(name)
    })
    await (await pending?.confirm())?.release()
  })

  it('is another hold in the next one', async () => {
    const { open, locks } = await setUp(engine)
    const name = freshName()
    const tokens: bigint[] = []
    for (let round = 0; round < 3; round++) {
      await open.connected.transaction(async (tx) => {
        tokens.push((await locks.within(tx).acquire(name)).token)
      })
    }
    expect(new Set(tokens).size).toBe(3)
  })
})

describe.each(served)('a guard that outlives its lease, on $name', { timeout: 60_000 }, (engine) => {
  it('keeps transactions from the lock until it ends', async () => {
    const { open, locks, others } = await setUp(engine)
    const name = freshName()
    const lease = await others.acquire(name, { ttl: 1500, renew: false })
    const other = await open.connect()
    const order: string[] = []
    let taking: Promise<unknown> | undefined
    await open.connected.transaction(async (tx) => {
      await lease.guard(tx)
      // And the server's clock is behind the trust of its holder by a little.
      await eventually(() => expect(lease.isHeld()).toBe(false))
      await sleep(300)
      const taker = createLocks(other.adapter)
      closing.push(() => taker.close())
      expect(await other.transaction((second) => taker.within(second).tryAcquire(name))).toBeNull()
      taking = other.transaction(async (second) => {
        await taker.within(second).acquire(name)
        order.push('taken')
      })
      await sleep(500)
      order.push('guarded transaction ends')
    })
    await taking
    expect(order).toEqual(['guarded transaction ends', 'taken'])
    await locks.close()
  })
})

describe.each(served)('closing while a transaction waits in the database, on $name', { timeout: 60_000 }, (engine) => {
  it('ends the wait of a caller who gave no signal, though its message is still on the way', async () => {
    const { open, others } = await setUp(engine)
    const name = freshName()
    let end: () => void = () => undefined
    const ended = new Promise<void>((resolve) => {
      end = resolve
    })
    let taken: () => void = () => undefined
    const isTaken = new Promise<void>((resolve) => {
      taken = resolve
    })
    const holding = open.connected.transaction(async (tx) => {
      await others.within(tx).acquire(name)
      taken()
      await ended
    })
    await isTaken
    const locks = createLocks(open.connected.adapter)
    let failure: unknown
    const transaction = open.connected.transaction(async (tx) => {
      const acquiring = locks.within(tx).acquire(name, { wait: '1h' })
      acquiring.catch((error: unknown) => {
        failure = error
        // Else the message, and so the rollback, would have to wait for the lock.
        end()
      })
      await sleep(100)
      await locks.close()
      await acquiring
    })
    await expect(transaction).rejects.toMatchObject({
      code: 'INVALID_ARGUMENT',
      message: expect.stringContaining('closed'),
    })
    expect(failure).toMatchObject({ code: 'INVALID_ARGUMENT', message: expect.stringContaining('closed') })
    await holding
  })

  it('sends nothing in a transaction whose call has been ended before', async () => {
    const { open } = await setUp(engine)
    const adapter = open.connected.adapter as SqlAdapter<unknown>
    let closed: Promise<void> | undefined
    const closes = <Connection extends { query: SqlAdapter<unknown>['query'] }>(
      connection: Connection,
    ): Connection => ({
      ...connection,
      query(statement) {
        closed ??= locks.close()
        return connection.query(statement)
      },
    })
    const { dedicate, borrow } = adapter
    const sent: string[] = []
    const locks = createLocks({
      ...closes(adapter),
      ...(dedicate && { dedicate: async () => closes(await dedicate.call(adapter)) }),
      ...(borrow && { borrow: async () => closes(await borrow.call(adapter)) }),
      queryIn(tx: unknown, statement) {
        sent.push(statement.text)
        return adapter.queryIn(tx, statement)
      },
    })
    await open.connected.transaction(async (tx) => {
      const acquiring = locks.within(tx, { isolation: 'read committed' }).acquire(freshName(), { wait: '1h' })
      await expect(acquiring).rejects.toMatchObject({ message: expect.stringContaining('closed') })
    })
    expect(closed).toBeInstanceOf(Promise)
    await closed
    expect(sent).toEqual([])
  })
})
