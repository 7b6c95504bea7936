import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { query } from '../connect.ts'
import { freshName, type OpenEngine } from '../engines.ts'
import { servedEngines } from './one-per-engine.ts'

/** Releases go in two statements there: of locks that nobody waits for, and of the others. */
const engines = servedEngines.filter(({ engine }) => engine === 'postgres')

describe.each(engines)('on $name', (engine) => {
  let open: OpenEngine

  beforeAll(async () => {
    open = await engine.open()
  })

  afterAll(() => open.close())

  // One of them is asked for again alone, two together.
  it.each([1, 2])(
    'a release that the database refuses is not taken for a loss of the %i that were given back with it',
    async (others) => {
      await using locks = await open.locks()
      const refused = freshName()
      const given = Array.from({ length: others }, () => freshName())
      await query(
        open.url,
        `create or replace function refuse() returns trigger language plpgsql as $$ begin raise 'refused'; end $$`,
      )
      await query(
        open.url,
        `create trigger refuse before update on rowlock_locks for each row
                    when (old.name = '${refused}' and old.owner is distinct from new.owner) execute function refuse()`,
      )
      const leases = await Promise.all([refused, ...given].map((name) => locks.acquire(name)))
      const waiting = locks.acquire(refused, { wait: '1m' })
      waiting.catch(() => undefined)
      await expect.poll(async () => (await locks.inspect(refused))?.waiters).toBe(1)
      const [first, ...rest] = await Promise.allSettled(leases.map((lease) => lease.release()))
      expect(first).toMatchObject({ status: 'rejected', reason: { code: 'DATABASE', failure: 'other' } })
      expect(rest).toEqual(given.map(() => ({ status: 'fulfilled', value: true })))
      await query(open.url, 'drop trigger refuse on rowlock_locks')
      expect(await leases[0]!.release()).toBe(true)
      await (await waiting).release()
    },
  )
})
