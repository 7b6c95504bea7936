import { sql } from 'kysely'
import { wentTo } from '../../protocol/ids.ts'
import type { Store } from '../../protocol/store.ts'
import { statement } from '../statement.ts'
import type { Context } from './context.ts'
import { engine, type Fragments, now } from './fragments.ts'
import { byName, namesOf, toGrants, toView } from './rows.ts'

export function enqueueStatements({ locks, waiters, view }: Fragments) {
  return {
    enqueue: statement<{ tickets: string; maxWaiters: number }>(
      engine,
      (p) => sql`
        update ${locks} as l
        set queue = case
          when l.queue ->> '$[#-1].id' = asked.value ->> 'joins'
            then json_set(l.queue, '$[#-1].n', (l.queue ->> '$[#-1].n') + (asked.value ->> 'count'),
                                   '$[#-1].until', max(l.queue ->> '$[#-1].until', ${now} + (asked.value ->> 'waitMs')))
          else json_insert(coalesce(l.queue, '[]'), '$[#]', json_object(
                 'id', asked.value ->> 'ticket', 'n', asked.value ->> 'count', 'ttl', asked.value ->> 'ttlMs',
                 'holder', asked.value ->> 'holder', 'process', asked.value ->> 'process',
                 'until', ${now} + (asked.value ->> 'waitMs')))
          end
        from json_each(${p.tickets}) as asked
        where l.name = asked.value ->> 'name' and ${waiters} + (asked.value ->> 'count') <= ${p.maxWaiters}
        returning queue ->> '$[#-1].id' as ticket, ${view}`,
    ),

    waiting: statement<{ names: string }>(
      engine,
      (p) => sql`
        select name, ${waiters} as waiters
        from ${locks} as l
        where name in (select value from json_each(${p.names}))`,
    ),

    // Rows are written as they are if all that is left of the ticket is the hold that it was handed.
    withdraw: statement<{ withdrawals: string }>(
      engine,
      (p) => sql`
        update ${locks} as l
        set queue = (
          select nullif(json_group_array(json(case
                   when waiting.value ->> 'id' = asked.value ->> 'ticket'
                     then json_set(waiting.value, '$.n', (waiting.value ->> 'n') - (asked.value ->> 'count'))
                   else waiting.value end)), '[]')
          from json_each(l.queue) as waiting
          where waiting.value ->> 'id' <> asked.value ->> 'ticket' or waiting.value ->> 'n' > asked.value ->> 'count')
        from json_each(${p.withdrawals}) as asked
        where l.name = asked.value ->> 'name'
          and (substr(l.owner, 1, 16) = asked.value ->> 'ticket'
               or exists (select 1 from json_each(l.queue) as waiting where waiting.value ->> 'id' = asked.value ->> 'ticket'))
        returning name, owner, cast(token as text) as token, takeover, handed_to, expires_at - ${now} as remaining`,
    ),
  }
}

export function enqueue({ runner, fragments, file }: Context<never>): Pick<Store<never>, 'enqueue' | 'withdraw'> {
  const statements = enqueueStatements(fragments)
  return {
    async enqueue(asked, maxWaiters) {
      await file.assertSame()
      const { rows } = await runner.run(statements.enqueue({ tickets: JSON.stringify(asked), maxWaiters }))
      const queued = byName(rows)
      const rest = asked.filter(({ name }) => !queued.has(name))
      const queues =
        rest.length === 0 ? queued : byName((await runner.run(statements.waiting({ names: namesOf(rest) }))).rows)
      return asked.map(({ name, count }) => {
        const row = queued.get(name)
        if (row !== undefined) return { outcome: 'queued', ticket: row.ticket as string, view: toView(row) }
        // A row that is there, with room in its queue, was created since.
        return { outcome: Number(queues.get(name)?.waiters ?? 0) + count > maxWaiters ? 'full' : 'missing' }
      })
    },

    async withdraw(asked) {
      const { rows } = await runner.run(statements.withdraw({ withdrawals: JSON.stringify(asked) }))
      const rest = byName(rows)
      return asked.map(({ name, ticket }) => {
        const row = rest.get(name)
        const isHanded = wentTo(row?.owner as string | null | undefined, ticket) && Number(row?.remaining) > 0
        return { withdrawn: true, grants: isHanded ? toGrants(row) : [] }
      })
    },
  }
}
