import { ormEngines } from './connectors-b.ts'
import { ormSuite } from './suite.ts'

for (const engine of ormEngines('MikroORM')) ormSuite(engine)
