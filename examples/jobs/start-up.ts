/**
 * Ten replicas start at the same moment, and one of them makes the tables; the others wait for it.
 *
 *     node --import tsx examples/jobs/start-up.ts [postgres://... | file.sqlite]
 */
import { db, end, locks } from './database.ts'

await locks.migrate()
const schema = await locks.once('schema: 1', {}, async () => {
  await db.schema.createTable('versions').addColumn('version', 'integer').addColumn('applied_by', 'integer').execute()
  await db.schema.createTable('events').addColumn('event', 'text').addColumn('amount', 'integer').execute()
  await db.schema.createTable('reports').addColumn('day', 'text').addColumn('made_by', 'integer').execute()
  await db.schema.createTable('copied').addColumn('row', 'integer').addColumn('leader', 'integer').execute()
  await db.insertInto('versions').values({ version: 1, applied_by: process.pid }).execute()
  return { appliedBy: process.pid }
})
console.log(schema.ran ? 'made the tables' : `the tables were made by ${schema.value.appliedBy}`)
await end()
