import { describe, expect, it } from 'vitest'
import { createLocks, type InstanceOptions } from '../../src/index.ts'
import { freshName } from '../engines.ts'
import { DEFAULTS, type Subject, settled } from './harness.ts'

export function migrateSuite(subject: Subject): void {
  const { engine } = subject

  it('can be run again, with locks held', async () => {
    const { locks } = subject
    const lease = await locks.acquire(freshName())
    await locks.migrate()
    await locks.migrate()
    expect(lease.isHeld()).toBe(true)
    expect(await locks.inspect(lease.name)).toMatchObject({ owner: lease.owner })
    expect(await lease.release()).toBe(true)
  })

  describe.skipIf(engine.engine === 'memory')('on a database without tables', () => {
    it('makes every call fail with NOT_MIGRATED, which says how to migrate', async () => {
      const { connected } = subject
      const locks = createLocks(connected.adapter, { ...DEFAULTS, tablePrefix: 'missing_' })
      const name = freshName()
      const json = { name, owner: '0'.repeat(32), token: '1', ttlMs: 1000 }
      const body = () => expect.unreachable('the body must not run')
      const calls: Record<string, () => Promise<unknown>> = {
        acquire: () => locks.acquire(name),
        tryAcquire: () => locks.tryAcquire(name),
        run: () => locks.run(name, {}, body),
        tryRun: () => locks.tryRun(name, {}, body),
        restore: () => locks.restore(json),
        inspect: () => locks.inspect(name),
        list: () => locks.list(),
        forceRelease: () => locks.forceRelease(name),
        purge: () => locks.purge({ idleFor: 0 }),
      }
      for (const [verb, call] of Object.entries(calls)) {
        expect(await settled(call()), verb).toMatchObject({
          status: 'rejected',
          reason: {
            code: 'NOT_MIGRATED',
            message: expect.stringMatching(/missing_locks.*locks\.migrate\(\).*rowlock migrate/),
          },
        })
      }
      await locks.close()
    })

    it('is safe to run by many at once', async () => {
      const { database } = subject
      const settings = { ...DEFAULTS, tablePrefix: 'crowded_' }
      const instances = await Promise.all(Array.from({ length: 8 }, () => database.locks(settings)))
      await Promise.all(instances.map((locks) => locks.migrate()))
      const leases = await Promise.all(instances.map((locks) => locks.tryAcquire('one')))
      expect(leases.filter((lease) => lease !== null)).toHaveLength(1)
      await Promise.all(instances.map((locks) => locks.close()))
    })
  })

  describe.skipIf(engine.engine === 'memory')('with a table prefix of the user’s', () => {
    it('works in tables of that name, apart from all others', async () => {
      const { locks, connected } = subject
      const tablePrefix = 'My_Own_'
      const name = freshName()
      await useEverything(subject, { tablePrefix })
      const own = createLocks(connected.adapter, { ...DEFAULTS, tablePrefix })
      const [lease, other] = [await own.acquire(name), await locks.acquire(name)]
      expect([lease.isHeld(), other.isHeld()]).toEqual([true, true])
      const quote = engine.engine === 'mysql' ? '`' : '"'
      const [row] = await connected.sql(
        `select count(*) as found from ${quote}My_Own_locks${quote} where name = '${name}'`,
      )
      expect(Number(row?.found)).toBe(1)
      await Promise.all([lease.release(), other.release()])
      await own.close()
    })

    it('quotes prefixes', async () => {
      for (const tablePrefix of ['select_', '_', 'x'.repeat(40), 'ORDER', 'my-app', 'My "own" `app`.1 -- é']) {
        const locks = createLocks(subject.connected.adapter, { ...DEFAULTS, tablePrefix })
        await locks.migrate()
        await (await locks.acquire(freshName())).release()
        await locks.close()
      }
    })
  })

  describe.runIf(engine.engine === 'postgres')('with a schema of the user’s', () => {
    it.each(['my-schema', 'MySchema', 'my "own" `schema`.1 -- é', '1st schema'])('quotes %s', async (schema) => {
      await useEverything(subject, { schema, tablePrefix: 'my-' })
    })

    it('makes the schema, and works in it', async () => {
      const { locks, connected } = subject
      const schema = 'Locks_of_app'
      const missing = createLocks(connected.adapter, { ...DEFAULTS, schema })
      await expect(missing.acquire('x')).rejects.toMatchObject({ code: 'NOT_MIGRATED' })
      await missing.close()
      await useEverything(subject, { schema })
      await useEverything(subject, { schema, tablePrefix: 'user_' })
      const own = createLocks(connected.adapter, { ...DEFAULTS, schema })
      const name = freshName()
      const [lease, other] = [await own.acquire(name), await locks.acquire(name)]
      const [row] = await connected.sql(
        `select count(*) as found from "Locks_of_app".rowlock_locks where name = '${name}'`,
      )
      expect(Number(row?.found)).toBe(1)
      await Promise.all([lease.release(), other.release()])
      await own.close()
    })
  })
}

/** Every statement there is, in tables of other names. */
async function useEverything({ connected }: Subject, naming: InstanceOptions): Promise<void> {
  const locks = createLocks(connected.adapter, { ...DEFAULTS, ...naming })
  await locks.migrate()
  await locks.migrate()
  const name = freshName()
  const lease = await locks.acquire(name)
  await lease.extend('30s')
  await connected.transaction(async (tx) => lease.guard(tx))
  const waiting = locks.acquire(name)
  expect(await locks.inspect(name)).toMatchObject({ name, owner: lease.owner })
  expect(await locks.list()).toMatchObject([{ name, owner: lease.owner }])
  const restored = await locks.restore(lease.toJSON())
  expect(await restored.release()).toBe(true)
  await waiting
  expect(await locks.forceRelease(name)).toBe(true)
  await expect(locks.purge({ idleFor: '1h' })).resolves.toBe(0)
  await locks.close()
}
